"""How often the compressed model decides like the original, and how sure that is."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Interpreter

from fxprune.calibrate.recording import Recording
from fxprune.capture.batch import Batch
from fxprune.linalg.clopper_pearson import lower_bound
from fxprune.verify.decisions import Decision, resolve, squared_error

TINY = 1e-30
"""The least squared norm that an error is relative to."""


@dataclass(frozen=True)
class Agreement:
    """A measured agreement.

    Attributes:
        rate: share of examples with the same decision.
        bound: one-sided 95 % Clopper-Pearson lower bound (docs/decisions/0004).
        examples: how many were compared.
        error: relative squared error of the outputs.
    """

    rate: float
    bound: float
    examples: int
    error: float


@torch.no_grad()
def validation_error(recording: Recording, small: GraphModule) -> float:
    """Relative squared error of a rewritten graph's outputs on the validation split.

    Args:
        recording: of the original; its chunks with recorded outputs are what is compared on.
        small: takes the same flat inputs.
    """
    error, norm = 0.0, 0.0
    for chunk in recording.chunks:
        if chunk.outputs:
            reference = recording.outputs(chunk)
            output = Interpreter(small).run(
                *(recording.store.get(x) for x in chunk.inputs), enable_io_processing=False
            )
            a, b = squared_error(reference, small.graph.process_outputs(output))
            error, norm = error + a, norm + b
    return error / max(norm, TINY)


@torch.no_grad()
def compare(
    original: Callable[..., Any],
    small: nn.Module,
    batches: Iterable[Batch],
    decision: Decision | None = None,
) -> Agreement:
    """Run both models and count equal decisions.

    Args:
        original, small: take a batch's arguments.
        batches: examples that neither fit nor choice has seen.
        decision: when two outputs count as the same; by the kind of output where left out.
    """
    agreeing, total, error, norm = 0, 0, 0.0, 0.0
    for batch in batches:
        reference, output = (
            original(*batch.args, **batch.kwargs),
            small(*batch.args, **batch.kwargs),
        )
        same = resolve(decision, reference)(reference, output)
        agreeing += int(same.sum())
        total += len(same)
        a, b = squared_error(reference, output)
        error, norm = error + a, norm + b
    rate, bound = agreeing / max(total, 1), lower_bound(agreeing, total)
    return Agreement(rate, bound, total, error / max(norm, TINY))
