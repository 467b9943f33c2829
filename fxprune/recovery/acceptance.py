"""Whether weights are better, on examples that are not trained on."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fxprune.capture.batch import Batch
from fxprune.recovery.pair import Pair
from fxprune.verify.judge import Judge


@dataclass(frozen=True)
class Measured:
    """How far the models are apart.

    Attributes:
        rate: share of examples with the same decision.
        divergence: of the outputs, mean over the examples; what training makes smaller.
    """

    rate: float
    divergence: float


@torch.no_grad()
def measure(pair: Pair, batches: Iterable[Batch], judge: Judge) -> Measured:
    """Judge the weights as they are.

    Args:
        pair: both models.
        batches: examples that are not trained on.
        judge: what decides.
    """
    agreed = examples = 0
    total = 0.0
    for batch in pair.batches(batches):
        _, reference = pair.teach(batch)
        output = pair.judged(batch)
        same = judge.decide(reference, output, batch.size)
        counted = [s for s, judged in zip(same, judge.outputs, strict=True) if judged.counts]
        agreed += int(torch.stack(counted).all(0).sum())
        total += batch.size * float(pair.divergence(reference, output))
        examples += batch.size
    return Measured(agreed / max(examples, 1), total / max(examples, 1))


@dataclass
class Best:
    """The best weights so far: no less agreement than at the start, and the least divergence.

    Attributes:
        start: of the compressed model as it came.
        found: of the best.
        step: after which they were found; 0 for the start.
        weights: copies on the CPU; empty for the start.
        stale: evaluations since then.
    """

    start: Measured
    found: Measured
    step: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    stale: int = 0

    def offer(self, measured: Measured, step: int, weights: dict[str, Tensor]) -> None:
        """Take weights where they are better."""
        better = measured.divergence < self.found.divergence
        if not (better and measured.rate >= self.start.rate):
            self.stale += 1
            return
        self.found, self.step, self.stale = measured, step, 0
        self.weights = {name: t.detach().cpu().clone() for name, t in weights.items()}
