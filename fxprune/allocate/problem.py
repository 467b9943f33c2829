"""What an allocation is asked, and what it answers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fxprune.allocate.widths import Widths, scale_widths, uniform_widths, within_limits
from fxprune.label.keep import keep_last
from fxprune.plans.factoring import Factoring
from fxprune.profile.costs import CostModel
from fxprune.profile.removal import Profile
from fxprune.session import Session


@dataclass(frozen=True)
class Candidate:
    """A plan that may be tried.

    Attributes:
        widths: (groups,) of every group's blocks.
        mix: of the allocation, 0 for uniform.
        slack: multiple of the budget that the widths alone keep.
        predicted: error of the widths alone.
        ranks: of layers that become two, by the name of their weight.
        rank_errors: predicted, of those.
        measured: time over the original's, where it was measured.
    """

    widths: np.ndarray
    mix: float = 0.0
    slack: float = 1.0
    predicted: float = 0.0
    ranks: Mapping[str, Factoring] = field(default_factory=dict)
    rank_errors: Mapping[str, float] = field(default_factory=dict)
    measured: float | None = None

    @property
    def key(self) -> object:
        """Equal for equal plans."""
        ranks = sorted(self.ranks.items(), key=lambda item: item[0])
        return tuple(int(w) for w in self.widths), tuple(ranks)


@dataclass(frozen=True)
class Problem:
    """Groups, what narrowing them costs and saves, and the limits to keep.

    Attributes:
        session: what was captured and observed.
        profiles: of the session's groups.
        costs: of every choice of widths.
        valid: widths that may be chosen.
        limits: fractions of the original to keep, by name.
    """

    session: Session
    profiles: list[Profile]
    costs: CostModel
    valid: Widths
    limits: Mapping[str, float]

    @property
    def solved(self) -> bool:
        """Whether the limits hold with everything kept that is not redundant."""
        return within_limits(self.costs, self.valid.largest, self.limits)

    def whole(self, names: Collection[str]) -> "Problem":
        """The same problem with these groups at their full width."""
        session, profiles = self.session, self.profiles
        groups = session.analysis.groups
        floor = np.where([group.name in names for group in groups], 1.0, session.floor)
        return replace(self, valid=Widths(groups, profiles, session.multiple, floor))

    def keeps(self, names: Collection[str]) -> bool:
        """Whether these groups stay at their full width, whatever is chosen."""
        widths = zip(
            self.session.analysis.groups, self.valid.smallest, self.valid.full, strict=True
        )
        return all(least == full for group, least, full in widths if group.name in names)

    def within(self, **limits: float) -> "Problem":
        """The same problem under other limits."""
        return replace(self, limits={**self.limits, **limits})

    def uniform(self) -> np.ndarray:
        """The same fraction of every group."""
        return uniform_widths(self.costs, self.valid, self.limits)

    def scale(self, shape: np.ndarray, slack: float = 1.0) -> np.ndarray:
        """The largest widths of this shape within a multiple of the limits."""
        limits = {name: min(slack * limit, 1.0) for name, limit in self.limits.items()}
        return scale_widths(shape, self.costs, self.valid, limits)

    def predicted(self, widths: np.ndarray) -> float:
        """The sum of the groups' predicted errors."""
        return sum(
            float(profile.errors[full - int(width)])
            for profile, full, width in zip(self.profiles, self.valid.full, widths, strict=True)
        )

    def keep_mask(self, widths: np.ndarray) -> np.ndarray:
        """(channels + 1,) bool: the last ones of each group's removal order."""
        return keep_last(self.session.analysis, [p.order for p in self.profiles], widths)


def pose(session: Session, limits: Mapping[str, float]) -> Problem:
    """The problem of a session's method under limits: its selector's removal orders and errors."""
    options = session.options
    profiles = session.statistics.profiles(options.chosen_selector)
    if not options.method.redundancy:
        profiles = [replace(profile, free=0) for profile in profiles]
    valid = Widths(session.analysis.groups, profiles, session.multiple, session.floor)
    return Problem(session, profiles, session.costs, valid, limits)
