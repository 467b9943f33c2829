"""Widths that minimize the sum of the groups' predicted errors under a budget."""

from collections.abc import Mapping, Sequence

import numpy as np

from fxprune.allocate.widths import Widths, uniform_widths, within_limits
from fxprune.profile.costs import CostModel
from fxprune.profile.removal import Profile

LEAST = 0.1
"""Share of every group's width that stays: predicted errors of nearly empty groups mean little."""
JUMPS = 32
"""Steps, at most, from the full width to none."""


def balanced_widths(
    profiles: Sequence[Profile], costs: CostModel, valid: Widths, limits: Mapping[str, float]
) -> np.ndarray:
    """Widths that minimize the sum of the groups' errors under the limits.

    Greedy on the marginal error per cost along each group's nested order; errors are made convex
    first, so greedy is optimal up to rounding.
    """
    widths = valid.largest.copy()
    curves = [_convex(np.maximum.accumulate(p.errors)) for p in profiles]
    names = list(limits)
    floor = np.maximum(valid.smallest, np.ceil(LEAST * valid.full)).astype(int)
    while not within_limits(costs, widths, limits):
        base = costs.fractions(widths, names)
        best, rate = None, np.inf
        for i in range(len(widths)):
            less = widths.copy()
            less[i] -= max(int(valid.step[i] // valid.blocks[i]), valid.full[i] // JUMPS, 1)
            if less[i] < floor[i]:
                continue
            after = costs.fractions(less, names)
            saved = sum(
                max(base[n] - after[n], 0) / limits[n] for n in names if base[n] > limits[n]
            )
            error = curves[i][valid.full[i] - less[i]] - curves[i][valid.full[i] - widths[i]]
            if saved > 0 and error / saved < rate:
                best, rate = less, error / saved
        if best is None:
            return uniform_widths(costs, valid, limits)
        widths = best
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
