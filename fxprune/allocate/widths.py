"""Valid widths of all groups, and the largest of a shape that keep a budget."""

from collections.abc import Mapping, Sequence

import numpy as np

from fxprune.errors import BudgetError
from fxprune.label.groups import ChannelGroup
from fxprune.profile.costs import CostModel
from fxprune.profile.removal import Profile


class Widths:
    """Turns wishes for each group into valid widths: at least one, at most what is not redundant,
    in multiples.

    Args:
        groups: the channel groups.
        profiles: theirs; redundant channels are never kept.
        round_to: widths are multiples of this, where the group is wide enough; one number, or one
            per group.
        floor: (groups,) least share of each group's channels.
    """

    def __init__(
        self,
        groups: Sequence[ChannelGroup],
        profiles: Sequence[Profile],
        round_to: int | Sequence[int] = 1,
        floor: np.ndarray | None = None,
    ):
        self.full = np.array([g.width for g in groups])
        self.floor = (
            np.ones(len(groups), dtype=int)
            if floor is None
            else np.maximum(np.ceil(floor * self.full - 1e-9).astype(int), 1)
        )
        self.top = np.maximum(self.full - np.array([p.free for p in profiles]), self.floor)
        steps = np.broadcast_to(round_to, len(groups))
        self.step = np.array(
            [
                step if g.width * len(g.blocks) >= step else 1
                for g, step in zip(groups, steps, strict=True)
            ]
        )
        self.blocks = np.array([len(g.blocks) for g in groups])

    def clip(self, wanted: np.ndarray) -> np.ndarray:
        """The nearest valid widths."""
        step = np.maximum(self.step // self.blocks, 1)
        rounded = np.maximum(np.round(wanted / step).astype(int), -(-self.floor // step)) * step
        # A multiple above what is not redundant may keep some of that; never more than the full
        # width.
        top = self.top if (step == 1).all() else np.minimum(-(-self.top // step) * step, self.full)
        return np.asarray(np.where(wanted >= self.top, top, np.minimum(rounded, self.full)))

    @property
    def largest(self) -> np.ndarray:
        """Everything that is not redundant."""
        return self.clip(self.full.astype(float))

    @property
    def smallest(self) -> np.ndarray:
        """The floor: one channel (or multiple) per block unless more was asked for."""
        return self.clip(np.zeros(len(self.full)))


def within_limits(costs: CostModel, widths: np.ndarray, limits: Mapping[str, float]) -> bool:
    """Whether the widths keep every limit."""
    have = costs.fractions(widths, limits)
    return all(have[name] <= limit + 1e-9 for name, limit in limits.items())


def scale_widths(
    shape: np.ndarray, costs: CostModel, valid: Widths, limits: Mapping[str, float]
) -> np.ndarray:
    """The largest widths proportional to `shape` (fractions of each group's width) that keep every
    limit.

    Raises:
        BudgetError: not even the smallest widths do; names the closest reachable.
    """
    if within_limits(costs, valid.largest, limits):
        return valid.largest
    if not within_limits(costs, valid.smallest, limits):
        reach = costs.fractions(valid.smallest)
        asked = ", ".join(f"{k}={v:g}" for k, v in limits.items())
        closest = ", ".join(f"{k}={reach[k]:.3f}" for k in limits)
        raise BudgetError(
            f"The budget {asked} cannot be reached: at the smallest widths the model keeps "
            f"{closest}. The rest lies in layers that keep their "
            "width (print fxprune.analyze(model, example)), or is asked for by keep= and round_to=."
        )
    low, high = 0.0, 1.0 / max(float(shape.min()), 1e-6)
    for _ in range(40):
        middle = (low + high) / 2
        if within_limits(costs, valid.clip(np.minimum(middle * shape, 1) * valid.full), limits):
            low = middle
        else:
            high = middle
    return _fill(
        valid.clip(np.minimum(low * shape, 1) * valid.full),
        low * shape * valid.full,
        costs,
        valid,
        limits,
    )


def _fill(
    widths: np.ndarray,
    wanted: np.ndarray,
    costs: CostModel,
    valid: Widths,
    limits: Mapping[str, float],
) -> np.ndarray:
    """Use what rounding left over: widen the groups that rounding cut most, as long as the limits
    hold.
    """
    for index in np.argsort(widths - wanted, kind="stable"):
        wider = widths.copy()
        wider[index] = min(
            widths[index] + max(valid.step[index] // valid.blocks[index], 1), valid.largest[index]
        )
        if within_limits(costs, wider, limits):
            widths = wider
    return widths


def uniform_widths(costs: CostModel, valid: Widths, limits: Mapping[str, float]) -> np.ndarray:
    """The same fraction of every group."""
    return scale_widths(np.ones(len(valid.full)), costs, valid, limits)
