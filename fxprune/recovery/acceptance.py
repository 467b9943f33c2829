"""Whether weights are better, on examples that are not trained on."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxprune.capture.batch import Batch
from fxprune.recovery.pair import Pair
from fxprune.recovery.views import Views
from fxprune.verify.judge import Judge

KEPT = 2**26
"""Bytes of the original's answers that are kept from one evaluation to the next."""
PLAIN = int, float, str, type(None)
"""What takes no room beside tensors; of a model's own objects nobody knows how much they hold."""
CLEAR = 2.0
"""Standard errors. Of ten evaluations some look better than the last by one, by chance, though the
rate has fallen since (docs/recover.md).
"""


@dataclass(frozen=True)
class Measured:
    """How far the models are apart.

    Attributes:
        rate: share of examples, in all their views, with the same decision.
        divergence: of the outputs, mean over the examples; what training makes smaller.
        each: the divergence of every independent group of examples, mean over their views, times
            the group's size relative to the mean one, so that its mean is `divergence`; empty where
            only that is known.
    """

    rate: float
    divergence: float
    each: tuple[float, ...] = ()

    def clearly_above(self, other: "Measured") -> bool:
        """Whether this divergence is above another one by more than `CLEAR` standard errors of
        their difference on the same groups.
        """
        difference = np.subtract(self.each, other.each)
        if len(difference) < 2:
            return self.divergence > other.divergence
        error = difference.std(ddof=1) / len(difference) ** 0.5
        return bool(difference.mean() > CLEAR * error)


class Examiner:
    """Judges the weights as they are.

    Args:
        pair: both models.
        batches: gives the examples, the same ones at every call.
        groups: (examples,) number of every example's group; examples of one are not independent.
        judge: what decides.
        views: of every example.
    """

    def __init__(
        self,
        pair: Pair,
        batches: Callable[[], Iterable[Batch]],
        groups: np.ndarray,
        judge: Judge,
        views: Views,
    ):
        self._pair, self._batches, self._judge, self._views = pair, batches, judge, views
        self._groups = np.unique(groups, return_inverse=True)[1]
        self._answers, self._room = dict[tuple[int, int], Any](), KEPT

    @torch.no_grad()
    def __call__(self) -> Measured:
        """Of all examples in all their views."""
        agreed, each = 0, list[float]()
        with self._views.drawn():
            for number, batch in enumerate(self._pair.batches(self._batches())):
                divergences = list[Tensor]()
                for which, view in enumerate(self._views.of(batch)):
                    reference = self._answer((number, which), view)
                    output = view.cut_outputs(self._pair.judged(view))
                    agreed += self._count(reference, output, view)
                    divergences.append(self._pair.divergence(reference, output))
                each += torch.stack(divergences).mean(0).tolist()
        count = max(len(each), 1)
        sums = np.bincount(self._groups, each)
        shares = tuple((sums * (len(sums) / count)).tolist())
        return Measured(agreed / count / self._views.count, sum(each) / count, shares)

    def _answer(self, key: tuple[int, int], view: Batch) -> Any:
        """The original's, computed once where there is room to keep it."""
        if key in self._answers:
            return self._answers[key]
        _, outputs = self._pair.teach(view)
        answer = view.cut_outputs(outputs)
        leaves = pytree.tree_leaves(answer)
        size = sum(t.nbytes for t in leaves if isinstance(t, Tensor))
        if size <= self._room and all(isinstance(t, (Tensor, *PLAIN)) for t in leaves):
            self._answers[key], self._room = answer, self._room - size
        return answer

    def _count(self, reference: Any, output: Any, view: Batch) -> int:
        same = self._judge.decide(reference, output, view.own)
        counted = [s for s, judged in zip(same, self._judge.outputs, strict=True) if judged.counts]
        return int(torch.stack(counted).all(0).sum())


def copies(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of tensors, on the CPU."""
    return {name: t.detach().cpu().clone() for name, t in weights.items()}


@torch.no_grad()
def put_back(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give a module's tensors the values that `copies` took of them."""
    own = module.state_dict(keep_vars=True)
    for name, value in weights.items():
        own[name].data.copy_(value)


@contextmanager
def partway(module: nn.Module, weights: dict[str, Tensor], share: float) -> Iterator[None]:
    """Part of the way from other weights to a module's own, which come back.

    Args:
        module: changed while it lasts.
        weights: from where, as `copies` took them.
        share: of the way; 1 for the module's own.
    """
    if share == 1:
        yield
        return
    own = copies(module.state_dict())
    floating = {n: w for n, w in weights.items() if w.is_floating_point() or w.is_complex()}
    put_back(module, {n: torch.lerp(w, own[n], share) for n, w in floating.items()})
    try:
        yield
    finally:
        put_back(module, own)


@dataclass
class Best:
    """The weights to hand back: the last ones that agree no less than those at the start, diverge
    less, and do not clearly diverge more than the least so far.

    The rate falls towards the end of a training, and with it the noise in the weights: a little
    less divergence on few examples is no reason to prefer earlier ones.

    Attributes:
        start: of the compressed model as it came.
        found: of the weights to hand back.
        least: what diverged least.
        step: after which they were found; 0 for the start.
        weights: copies on the CPU.
        stale: evaluations since then.
        way: share of the way to the weights of that step, from the best before.
    """

    start: Measured
    found: Measured
    least: Measured
    step: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    stale: int = 0
    way: float = 1.0

    def accepts(self, measured: Measured) -> bool:
        """Whether weights are to be taken."""
        better = measured.rate >= self.start.rate and measured.divergence < self.start.divergence
        return better and not measured.clearly_above(self.least)

    def take(
        self, measured: Measured, step: int, weights: dict[str, Tensor], way: float = 1.0
    ) -> None:
        """Keep weights."""
        self.found, self.step, self.stale, self.way = measured, step, 0, way
        if measured.divergence < self.least.divergence:
            self.least = measured
        self.weights = copies(weights)
