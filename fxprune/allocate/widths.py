"""Station 5: widths of all groups under a budget."""

from collections.abc import Sequence

import numpy as np

from fxprune.errors import BudgetError
from fxprune.label.analysis import ChannelGroup
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


def fits(costs: CostModel, widths: np.ndarray, limits: dict[str, float]) -> bool:
    """Whether the widths keep every limit."""
    have = costs.fractions(widths, limits)
    return all(have[name] <= limit + 1e-9 for name, limit in limits.items())


def scaled(
    shape: np.ndarray, costs: CostModel, valid: Widths, limits: dict[str, float]
) -> np.ndarray:
    """The largest widths proportional to `shape` (fractions of each group's width) that keep every
    limit.

    Raises:
        BudgetError: not even the smallest widths do; names the closest reachable.
    """
    if fits(costs, valid.largest, limits):
        return valid.largest
    if not fits(costs, valid.smallest, limits):
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
        if fits(costs, valid.clip(np.minimum(middle * shape, 1) * valid.full), limits):
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
    limits: dict[str, float],
) -> np.ndarray:
    """Use what rounding left over: widen the groups that rounding cut most, as long as the limits
    hold.
    """
    for index in np.argsort(widths - wanted, kind="stable"):
        wider = widths.copy()
        wider[index] = min(
            widths[index] + max(valid.step[index] // valid.blocks[index], 1), valid.largest[index]
        )
        if fits(costs, wider, limits):
            widths = wider
    return widths


def uniform(costs: CostModel, valid: Widths, limits: dict[str, float]) -> np.ndarray:
    """The same fraction of every group."""
    return scaled(np.ones(len(valid.full)), costs, valid, limits)


def iterative(
    profiles: Sequence[Profile],
    costs: CostModel,
    valid: Widths,
    limits: dict[str, float],
    step: float,
) -> np.ndarray:
    """The reference's allocation (Chee et al. 2022): cut the group with the lowest |r_kk / r_11|
    per share of FLOPs to `step` of its width.

    Raises:
        BudgetError: the limits cannot be kept.
    """
    widths = valid.largest
    total = costs.flops(costs.full)
    while not fits(costs, widths, limits):
        best, score = -1, np.inf
        for i, profile in enumerate(profiles):
            new = int(np.floor(step * widths[i]))
            if new < valid.floor[i] or new == widths[i]:
                continue
            without = widths.copy()
            without[i] = 0
            share = (costs.flops(widths) - costs.flops(without)) / total
            value = float(profile.scores[valid.full[i] - new]) / max(share, 1e-12)
            if value < score:
                best, score = i, value
        if best < 0:
            return scaled(np.ones(len(valid.full)), costs, valid, limits)
        widths = widths.copy()
        widths[best] = int(np.floor(step * widths[best]))
    return widths


def balanced(
    profiles: Sequence[Profile], costs: CostModel, valid: Widths, limits: dict[str, float]
) -> np.ndarray:
    """Widths that minimize the sum of the groups' errors under the limits.

    Greedy on the marginal error per cost along each group's nested order; errors are made convex
    first, so greedy is optimal up to rounding.
    """
    widths = valid.largest.copy()
    curves = [_convex(np.maximum.accumulate(p.errors)) for p in profiles]
    names = list(limits)
    floor = np.maximum(valid.smallest, np.ceil(0.1 * valid.full)).astype(int)
    while not fits(costs, widths, limits):
        base = costs.fractions(widths, names)
        best, rate = -1, np.inf
        for i in range(len(widths)):
            jump = max(int(valid.step[i] // valid.blocks[i]), valid.full[i] // 32, 1)
            new = widths[i] - jump
            if new < floor[i]:
                continue
            less = widths.copy()
            less[i] = new
            after = costs.fractions(less, names)
            saved = sum(
                max(base[n] - after[n], 0) / limits[n] for n in names if base[n] > limits[n]
            )
            if saved <= 0:
                continue
            error = curves[i][valid.full[i] - new] - curves[i][valid.full[i] - widths[i]]
            if error / saved < rate:
                best, rate, move = i, error / saved, new
        if best < 0:
            return uniform(costs, valid, limits)
        widths[best] = move
    return widths


def _convex(values: np.ndarray) -> np.ndarray:
    """Lower convex envelope of a curve at 0, 1, ..."""
    hull: list[int] = []
    for i in range(len(values)):
        while len(hull) > 1 and (values[hull[-1]] - values[hull[-2]]) * (i - hull[-1]) >= (
            values[i] - values[hull[-1]]
        ) * (hull[-1] - hull[-2]):
            hull.pop()
        hull.append(i)
    return np.asarray(np.interp(np.arange(len(values)), hull, values[hull]))
