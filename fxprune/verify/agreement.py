"""How often the compressed model decides like the original, and how sure that is."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule

from fxprune.calibrate.padding import EVERYWHERE, Padding
from fxprune.calibrate.recording import Chunk, Recording
from fxprune.calibrate.running import Runner
from fxprune.capture.batch import Batch
from fxprune.distributed.group import ALONE, Group
from fxprune.linalg.clopper_pearson import lower_bound
from fxprune.verify.by_class import ByClass, Changed, ClassAgreement
from fxprune.verify.judge import Decision, Judge, settle
from fxprune.verify.outputs import OutputErrors, squared_errors
from fxprune.verify.tokens import TokenAgreement, TokenCounts


@dataclass(frozen=True)
class OutputAgreement:
    """One output's part in an agreement.

    Attributes:
        name: of the output.
        rule: how it is judged.
        rate: share of examples on which it agrees.
        error: its relative squared error.
        counts: whether it is part of the joint decision, or another reading of a doubtful output,
            told for information.
    """

    name: str
    rule: str
    rate: float
    error: float
    counts: bool = True


@dataclass(frozen=True)
class Agreement:
    """A measured agreement.

    Attributes:
        rate: share of examples with the same decision, in all outputs that are judged.
        bound: one-sided 95 % Clopper-Pearson lower bound (docs/decisions/0004).
        examples: how many were compared.
        error: relative squared error of the outputs; their mean where there are several.
        decision: when two outputs are the same decision.
        outputs: each output's own rate.
        classes: each class's own, where every example has one.
        changed: some of the examples on which the decision is another.
        unit: what `examples` counts and the rates are shares of: examples, or next tokens.
        perplexity: of the original and of the compressed model on the text of these examples, where
            their decisions are next tokens.
    """

    rate: float
    bound: float
    examples: int
    error: float
    decision: str = ""
    outputs: tuple[OutputAgreement, ...] = ()
    classes: tuple[ClassAgreement, ...] = ()
    changed: tuple[Changed, ...] = ()
    unit: str = "example"
    perplexity: tuple[float, float] | None = None

    @property
    def compared(self) -> str:
        """How many of what were compared, in words."""
        kind = "calibration example" if self.unit == "example" else self.unit
        return f"{self.examples} held-out {kind}s"

    @property
    def perplexity_ratio(self) -> float | None:
        """How much larger the compressed model's perplexity is; None where there is none."""
        return None if self.perplexity is None else self.perplexity[1] / self.perplexity[0]

    def numbered(self, numbers: np.ndarray) -> "Agreement":
        """With the calibration examples' numbers in place of their places among those compared.

        Args:
            numbers: (examples,) of those that were compared, in their order.
        """
        changed = (replace(c, number=int(numbers[c.number])) for c in self.changed)
        return replace(self, changed=tuple(changed))


class ValidationErrors:
    """Errors of a rewritten graph's outputs on the validation split, as they come.

    Args:
        recording: of the original; its chunks with recorded outputs are what is compared on.
    """

    def __init__(self, recording: Recording):
        self._recording = recording
        self._found = list[tuple[Chunk, dict[str, tuple[float, float]]]]()

    def count(self, chunk: Chunk, outputs: Any) -> None:
        """Compare what the rewritten graph returns on a chunk, flat."""
        recording = self._recording
        reference, output = recording.outputs(chunk), recording.as_returned(outputs)
        real = partial(recording.padding.of_output, real=chunk.real)
        self._found.append((chunk, squared_errors(reference, output, real)))

    def mean(self) -> float:
        """Relative squared error over all ranks' chunks; the mean of several outputs'."""
        errors = OutputErrors()
        for one in self._recording.of_all(self._found, "validation"):
            errors.count(one)
        return errors.mean()


@torch.no_grad()
def validation_error(recording: Recording, small: GraphModule) -> float:
    """Relative squared error of a rewritten graph's outputs on the validation split.

    Args:
        recording: of the original; its chunks with recorded outputs are what is compared on.
        small: takes the same flat inputs.
    """
    errors = ValidationErrors(recording)
    for chunk in recording.chunks:
        if chunk.outputs:
            inputs = (recording.store.get(x) for x in chunk.inputs)
            errors.count(chunk, Runner(small).run(*inputs, enable_io_processing=False))
    return errors.mean()


@torch.no_grad()
def compare(
    original: Callable[..., Any],
    small: Callable[..., Any],
    batches: Iterable[Batch],
    decision: Judge | Decision = None,
    independent: float | None = None,
    padding: Padding = EVERYWHERE,
    group: Group = ALONE,
) -> Agreement:
    """Run both models and count equal decisions.

    Args:
        original, small: take a batch's arguments.
        batches: examples that neither fit nor choice has seen; a run of them on every rank.
        decision: when two outputs count as the same; settled on the first batch where it is not
            yet.
        independent: for how many independent examples these count; for all by default.
        padding: whose positions do not count.
        group: of the ranks, which then have a settled judge.

    Raises:
        UnsupportedError: outputs cannot be judged so; says why.
    """
    judge = decision if isinstance(decision, Judge) else None
    by_class = None if judge is None else ByClass(judge)
    found, parts = list[dict[str, tuple[float, float]]](), list[np.ndarray]()
    tokens: TokenCounts | None = None
    for batch in batches:
        reference, output = (
            original(*batch.args, **batch.kwargs),
            small(*batch.args, **batch.kwargs),
        )
        reference, output = batch.cut_outputs(reference), batch.cut_outputs(output)
        judge = judge or settle(decision, [(reference, batch.own)])  # type: ignore[arg-type]
        by_class = by_class or ByClass(judge)
        real = None if batch.real is None else batch.real[: batch.own]
        cut = partial(padding.cut, real=real)
        same = judge.decide(reference, output, batch.own, cut)
        if judge.tokens is not None:
            tokens = tokens or TokenCounts(*judge.tokens)
            tokens.add(batch, reference, output, real)
        counted = [s for s, judged in zip(same, judge.outputs, strict=True) if judged.counts]
        by_class.add(batch, reference, output, counted, cut)
        parts.append(torch.stack(same).numpy())
        found.append(squared_errors(reference, output, partial(padding.of_output, real=real)))
    if judge is None or by_class is None:
        return Agreement(0.0, 0.0, 0, 0.0)
    by_class.gather(group)
    told, errors = group.gather((parts, found), "decisions"), OutputErrors()
    parts = [part for own, _ in told for part in own]
    for one in (one for _, own in told for one in own):
        errors.count(one)
    agreement = _summarize(judge, np.concatenate(parts, axis=1), errors, by_class, independent)
    if judge.tokens is None:
        return agreement
    tokens = tokens or TokenCounts(*judge.tokens)
    tokens.gather(group)
    return _of_tokens(agreement, tokens.result(), independent)


def _of_tokens(found: Agreement, tokens: TokenAgreement, independent: float | None) -> Agreement:
    """An agreement of examples as one of their next tokens."""
    same, positions = int(tokens.same.sum()), int(tokens.positions.sum())
    weight = 1.0 if independent is None else independent / max(found.examples, 1)
    rate = same / max(positions, 1)
    outputs = (replace(o, rate=rate) if o.counts else o for o in found.outputs)
    return replace(
        found,
        rate=rate,
        bound=lower_bound(same, positions, independent=tokens.independent * weight),
        examples=positions,
        outputs=tuple(outputs),
        changed=(),
        unit="next token",
        perplexity=tokens.perplexity,
    )


def _summarize(
    judge: Judge,
    same: np.ndarray,
    errors: OutputErrors,
    by_class: ByClass,
    independent: float | None,
) -> Agreement:
    """The joint decision, its bound, and each output's own rate.

    Args:
        judge: of the outputs.
        same: (outputs, examples) bool, in the order of the examples.
        errors: of the outputs.
        by_class: of the examples.
        independent: for how many independent examples these count.
    """
    counts = [judged.counts for judged in judge.outputs]
    equal: np.ndarray = np.all(same[counts], axis=0)
    own = errors.by_output()
    outputs = tuple(
        OutputAgreement(
            judged.name, str(judged.rule), float(row.mean()), own[judged.name], judged.counts
        )
        for judged, row in zip(judge.outputs, same, strict=True)
        if judged.name
    )
    rate = float(equal.mean()) if len(equal) else 0.0
    return Agreement(
        rate,
        bound(equal, independent),
        len(equal),
        errors.mean(),
        str(judge),
        outputs,
        by_class.classes(equal, independent),
        tuple(by_class.changed),
    )


def bound(equal: np.ndarray, independent: float | None = None) -> float:
    """Lower bound of the rate at which decisions are the same.

    Args:
        equal: (examples,) bool, whether each held-out example's decision is the same.
        independent: for how many independent examples these count; for all by default.
    """
    return lower_bound(int(equal.sum()), len(equal), independent=independent)
