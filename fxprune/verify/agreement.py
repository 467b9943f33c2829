"""Station 7: how often the compressed model decides like the original, on examples held out from
fitting, and how sure that is.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Interpreter

from fxprune.calibrate.recording import Recording
from fxprune.capture.batch import Batch
from fxprune.linalg.clopper_pearson import lower_bound
from fxprune.verify.decisions import Decision, relative_error, resolve


@dataclass(frozen=True)
class Agreement:
    """A measured agreement.

    Attributes:
        rate: share of examples with the same decision.
        bound: one-sided 95 % Clopper-Pearson lower bound.
        examples: how many were compared.
        error: relative squared error of the outputs.
    """

    rate: float
    bound: float
    examples: int
    error: float


@torch.no_grad()
def judge(recording: Recording, small: GraphModule) -> float:
    """Relative squared error of a rewritten graph's outputs on the chunks whose outputs were
    recorded.
    """
    wrong, norm = 0.0, 0.0
    for chunk in recording.chunks:
        if chunk.outputs:
            reference = recording.outputs(chunk)
            output = Interpreter(small).run(
                *(recording.store.get(x) for x in chunk.inputs), enable_io_processing=False
            )
            a, b = relative_error(reference, small.graph.process_outputs(output))
            wrong, norm = wrong + a, norm + b
    return wrong / max(norm, 1e-30)


@torch.no_grad()
def compare(
    original: Callable[..., Any],
    small: nn.Module,
    batches: Iterable[Batch],
    decision: Decision | None = None,
) -> Agreement:
    """Run both models and count equal decisions."""
    agreeing, total, wrong, norm = 0, 0, 0.0, 0.0
    for batch in batches:
        reference, output = (
            original(*batch.args, **batch.kwargs),
            small(*batch.args, **batch.kwargs),
        )
        same = resolve(decision, reference)(reference, output)
        agreeing += int(same.sum())
        total += len(same)
        a, b = relative_error(reference, output)
        wrong, norm = wrong + a, norm + b
    return Agreement(
        agreeing / max(total, 1), lower_bound(agreeing, total), total, wrong / max(norm, 1e-30)
    )
