"""Station 5: whole plans are tried on examples they are not fitted on, and the best is kept."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from fxprune.allocate import widths as allocate
from fxprune.allocate.ranks import planned_ranks
from fxprune.errors import BudgetError
from fxprune.fit.build import surviving_channels, trial
from fxprune.plans.factoring import Factoring
from fxprune.profile.costs import CostModel
from fxprune.profile.removal import Profile
from fxprune.session import Session

STRETCHES = (1.2, 1.5, 2.0, math.inf)
"""Budgets that channels are reduced to before ranks bring the model to the one asked for, as
multiples of it; at most the original.
"""
GAIN = 0.9
"""A plan with ranks must err less than this share of what channels alone do: at equal FLOPs two
layers take longer than one.
"""
SAVING = 0.25
"""Of its cost, which a layer must save to become two in such a plan."""
MIXES, RANKED_MIXES = (0.75, 0.5), (0.0, 0.5)
"""Allocations beside uniform, and those that are stretched for ranks: the geometric weight of the
smallest predicted error against uniform.
"""
RANKS_FACTOR = 1.3
"""Least measured error of ranks over predicted; more, and that of channels, is learned from the
plans tried.
"""
PROMISE = 1.2
"""By how much less a plan with ranks must promise to err to be tried before one without."""
WORTH_TRYING = 0.8
"""One more plan is tried where it promises to err less than this share of what the best of the
plans tried does.
"""
NEGLIGIBLE = 1e-12
"""Relative errors below this count as this where one is divided by another."""
SPREAD = 0.2
"""Standard deviation of the logarithm of a width's change, when widths are varied at random."""


@dataclass(frozen=True)
class Candidate:
    """A plan that may be tried.

    Attributes:
        widths: (groups,) of every group's blocks.
        mix: of the allocation, 0 for uniform.
        stretch: multiple of the budget that the widths alone keep.
        error: predicted, of the widths alone.
        ranks: of layers that become two, by the name of their weight.
        errors: predicted, of those.
    """

    widths: np.ndarray
    mix: float = 0.0
    stretch: float = 1.0
    error: float = 0.0
    ranks: Mapping[str, Factoring] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> object:
        """Equal for equal plans."""
        return tuple(int(w) for w in self.widths), tuple(
            sorted(self.ranks.items(), key=lambda item: item[0])
        )


class Search:
    """Tries `session.effort` plans, uniform widths always first, and one more where another
    promises much less error than they show.

    Args:
        profiles: the groups'.
        costs, valid, limits: what the plans must keep.
        ranked: whether layers may become two.
    """

    def __init__(
        self,
        session: Session,
        profiles: list[Profile],
        costs: CostModel,
        valid: allocate.Widths,
        limits: dict[str, float],
        ranked: bool,
    ):
        self.session, self.profiles, self.costs, self.valid, self.limits, self.ranked = (
            session,
            profiles,
            costs,
            valid,
            limits,
            ranked,
        )
        self.tried: list[tuple[float, Candidate]] = []

    def best(self) -> Candidate:
        """The plan that errs least; one with ranks only where it is clearly better than any
        without.
        """
        if self.session.effort == 1:
            return next(self.options())
        seen: set[object] = set()
        repeated = 0
        for option in self._proposals():
            beyond = len(self.tried) - self.session.effort
            repeated = repeated + 1 if option.key in seen else 0
            if repeated > 8 or beyond > 0 or (beyond == 0 and not self._deserves(option)):
                break
            if not repeated:
                seen.add(option.key)
                keep_mask = surviving_channels(self.session, self.profiles, option.widths)
                self.tried.append((trial(self.session, keep_mask, option.ranks), option))
        return self._leader()[1]

    def _deserves(self, option: Candidate) -> bool:
        """Whether a plan is tried beyond the effort: those that were tried were unlucky, since
        trials are noisy, or foreseen badly.
        """
        error, leader = self._leader()
        return leader is self.tried[0][1] or self.promise(option) < WORTH_TRYING * error

    def _leader(self) -> tuple[float, Candidate]:
        whole = min((t for t in self.tried if not t[1].ranks), key=lambda t: t[0])
        split = min((t for t in self.tried if t[1].ranks), key=lambda t: t[0], default=whole)
        return split if split[0] < GAIN * whole[0] else whole

    def options(self) -> Iterator[Candidate]:
        """Plans with a reason, uniform widths first."""
        uniform = allocate.uniform(self.costs, self.valid, self.limits)
        yield self._whole(uniform, 0.0)
        balanced = allocate.balanced(self.profiles, self.costs, self.valid, self.limits)
        yield from (
            self._whole(self._scaled(self._mixed(uniform, balanced, mix)), mix) for mix in MIXES
        )
        if self.ranked:
            pairs = [(mix, stretch) for mix in RANKED_MIXES for stretch in STRETCHES]
            wider = {
                pair: self._scaled(self._mixed(uniform, balanced, pair[0]), pair[1])
                for pair in pairs
            }
            found = (
                self._split(wider[pair], *pair)
                for pair in {wider[pair].tobytes(): pair for pair in pairs}.values()
            )
            yield from (option for option in found if option is not None)

    def _proposals(self) -> Iterator[Candidate]:
        options = self.options()
        yield next(options)
        rest = list(options)
        while rest:
            yield rest.pop(int(np.argmin([self.promise(option) for option in rest])))
        generator = np.random.default_rng(self.session.seed)
        while True:
            leader = self._leader()[1]
            change = np.exp(SPREAD * generator.standard_normal(len(leader.widths)))
            shape = np.clip(leader.widths / self.valid.full * change, 0, 1)
            wider = self._scaled(shape, leader.stretch)
            varied = (
                self._split(wider, leader.mix, leader.stretch)
                if leader.ranks
                else self._whole(wider, leader.mix)
            )
            yield leader if varied is None else varied

    def _mixed(self, uniform: np.ndarray, balanced: np.ndarray, mix: float) -> np.ndarray:
        """A geometric mean of two plans, as fractions of the groups' widths."""
        return np.asarray(
            (balanced / self.valid.full) ** mix * (uniform / self.valid.full) ** (1 - mix)
        )

    def _scaled(self, shape: np.ndarray, stretch: float = 1.0) -> np.ndarray:
        limits = {name: min(stretch * limit, 1.0) for name, limit in self.limits.items()}
        return allocate.scaled(shape, self.costs, self.valid, limits)

    def _error(self, widths: np.ndarray) -> float:
        return sum(
            float(p.errors[full - int(w)])
            for p, full, w in zip(self.profiles, self.valid.full, widths, strict=True)
        )

    def _whole(self, widths: np.ndarray, mix: float) -> Candidate:
        return Candidate(widths, mix, 1.0, self._error(widths))

    def _split(self, wider: np.ndarray, mix: float, stretch: float) -> Candidate | None:
        """Widths within a looser budget, with ranks that bring them back to the limits; None where
        no ranks do.
        """
        try:
            ranks, errors = planned_ranks(
                self.session,
                "pca",
                surviving_channels(self.session, self.profiles, wider),
                self.limits,
                SAVING,
            )
        except BudgetError:
            return None
        return Candidate(wider, mix, stretch, self._error(wider), ranks, errors) if ranks else None

    def promise(self, option: Candidate) -> float:
        """The error that a trial would show.

        Errors of channels compound from layer to layer, the more the fewer layers carry them. By
        how much more than their sum a network errs is seen in the plans tried so far, and
        interpolated between their allocations. Errors of ranks add up, unless a plan with ranks
        that was tried shows more.
        """
        known = sorted(
            (o.mix, math.log(max(tried, NEGLIGIBLE) / max(o.error, NEGLIGIBLE)))
            for tried, o in self.tried
            if not o.ranks
        )

        def channels(o: Candidate) -> float:
            return o.error * math.exp(
                float(np.interp(o.mix, [mix for mix, _ in known], [excess for _, excess in known]))
            )

        if not option.ranks:
            return channels(option)
        shown = [
            (tried - channels(o)) / max(sum(o.errors.values()), NEGLIGIBLE)
            for tried, o in self.tried
            if o.ranks
        ]
        return PROMISE * (
            channels(option) + max([RANKS_FACTOR, *shown]) * sum(option.errors.values())
        )
