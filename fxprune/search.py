"""Station 5: whole plans are tried on examples they are not fitted on, and the best is kept."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from fxprune import allocate
from fxprune.construct import surviving_channels, trial
from fxprune.costs import CostModel
from fxprune.errors import BudgetError
from fxprune.factoring import Factoring
from fxprune.profile import Profile
from fxprune.ranks import planned_ranks
from fxprune.session import Session

STRETCHES = (1.5, 2.0, math.inf)
"""Budgets that channels are reduced to before ranks bring the model to the one asked for, as multiples of it; at most the original."""
GAIN = 0.9
"""A plan with ranks must err less than this share of what channels alone do: at equal FLOPs two layers take longer than one."""
SAVING = 0.25
"""Of its cost, which a layer must save to become two in such a plan."""
PROMISE = 1.2
"""A plan with ranks is tried where its predicted error is below this multiple: predictions are more pessimistic of ranks than of channels."""
BLENDS = ((1.0, 0.5), (1.0, 1.0), (0.5, 0.5))
"""Allocations beside uniform: the power of the groups' errors that is summed, and the geometric weight against uniform."""
SPREAD = 0.2
"""Standard deviation of the logarithm of a width's change, when widths are varied at random."""


@dataclass(frozen=True)
class Option:
    """A plan that may be tried.

    Attributes:
        widths: (groups,) of every group's blocks.
        stretch: multiple of the budget that the widths alone keep.
        ranks: of layers that become two, by the name of their weight.
        errors: predicted, of those.
        predicted: error of the whole plan.
    """

    widths: np.ndarray
    stretch: float = 1.0
    predicted: float = 0.0
    ranks: Mapping[str, Factoring] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> object:
        """Equal for equal plans."""
        return tuple(int(w) for w in self.widths), tuple(sorted(self.ranks.items(), key=lambda item: item[0]))


class Search:
    """Tries `session.effort` plans; uniform widths are always the first.

    Args:
        profiles: the groups'.
        costs, valid, limits: what the plans must keep.
        ranked: whether layers may become two.
    """

    def __init__(
        self, session: Session, profiles: list[Profile], costs: CostModel, valid: allocate.Widths, limits: dict[str, float], ranked: bool
    ):
        self.session, self.profiles, self.costs, self.valid, self.limits, self.ranked = session, profiles, costs, valid, limits, ranked
        self.tried: list[tuple[float, Option]] = []

    def best(self) -> Option:
        """The plan that errs least; one with ranks only where it is clearly better than any without."""
        seen: set[object] = set()
        repeated = 0
        for option in self._proposals():
            repeated = repeated + 1 if option.key in seen else 0
            if repeated > 8:
                break
            if not repeated:
                seen.add(option.key)
                alive = surviving_channels(self.session, self.profiles, option.widths)
                error = trial(self.session, alive, option.ranks) if self.session.effort > 1 else 0.0
                self.tried.append((error, option))
            if len(self.tried) >= self.session.effort:
                break
        return self._leader()[1]

    def _leader(self, ranked: bool = True) -> tuple[float, Option]:
        whole = min((t for t in self.tried if not t[1].ranks), key=lambda t: t[0])
        split = min((t for t in self.tried if t[1].ranks), key=lambda t: t[0], default=whole) if ranked else whole
        return split if split[0] < GAIN * whole[0] else whole

    def _proposals(self) -> Iterator[Option]:
        uniform = allocate.uniform(self.costs, self.valid, self.limits)
        yield self._whole(uniform)
        blends = (self._blend(uniform, *blend) for blend in BLENDS)
        yield next(blends)
        ranked = iter(self._split(self._leader(ranked=False)[1]) if self.ranked else ())
        yield from chain((option for option in [next(ranked, None)] if option is not None), blends, ranked)
        generator = np.random.default_rng(self.session.seed)
        while True:
            leader = self._leader()[1]
            change = np.exp(SPREAD * generator.standard_normal(len(leader.widths)))
            shape = np.clip(leader.widths / self.valid.full * change, 0, 1)
            varied = self._with_ranks(shape, leader.stretch) if leader.ranks else self._whole(self._scaled(shape, 1.0))
            yield leader if varied is None else varied

    def _blend(self, uniform: np.ndarray, power: float, mix: float) -> Option:
        shape = allocate.balanced(self.profiles, self.costs, self.valid, self.limits, power)
        return self._whole(self._scaled((shape / self.valid.full) ** mix * (uniform / self.valid.full) ** (1 - mix), 1.0))

    def _scaled(self, shape: np.ndarray, stretch: float) -> np.ndarray:
        limits = {name: min(stretch * limit, 1.0) for name, limit in self.limits.items()}
        return allocate.scaled(shape, self.costs, self.valid, limits)

    def _error(self, widths: np.ndarray) -> float:
        return sum(float(p.errors[full - int(w)]) for p, full, w in zip(self.profiles, self.valid.full, widths, strict=True))

    def _whole(self, widths: np.ndarray) -> Option:
        return Option(widths, 1.0, self._error(widths))

    def _with_ranks(self, shape: np.ndarray, stretch: float) -> Option | None:
        """Widths of a shape within a looser budget, with ranks that bring them back to the limits; None where no ranks do."""
        wider = self._scaled(shape, stretch)
        try:
            ranks, errors = planned_ranks(self.session, "pca", surviving_channels(self.session, self.profiles, wider), self.limits, SAVING)
        except BudgetError:
            return None
        return Option(wider, stretch, self._error(wider) + sum(errors.values()), ranks, errors) if ranks else None

    def _split(self, whole: Option) -> list[Option]:
        """Plans with ranks that promise to be better than one without, the best first."""
        shape = whole.widths / self.valid.full
        found = [self._with_ranks(shape, stretch) for stretch in STRETCHES]
        return sorted((o for o in found if o is not None and o.predicted < PROMISE * whole.predicted), key=lambda o: o.predicted)
