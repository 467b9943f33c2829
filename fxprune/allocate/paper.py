"""The reference's allocation: cut, again and again, the group that scores lowest."""

from collections.abc import Mapping, Sequence

import numpy as np

from fxprune.allocate.widths import Widths, scale_widths, within_limits
from fxprune.profile.costs import CostModel
from fxprune.profile.removal import Profile

STEP = 0.9
"""Share of a group's width that one step keeps (Chee et al., NeurIPS 2022)."""


def iterative_widths(
    profiles: Sequence[Profile],
    costs: CostModel,
    valid: Widths,
    limits: Mapping[str, float],
    step: float = STEP,
) -> np.ndarray:
    """The reference's allocation (Chee et al. 2022): cut the group with the lowest |r_kk / r_11|
    per share of FLOPs to `step` of its width, or the next multiple below.

    Raises:
        BudgetError: the limits cannot be kept.
    """
    widths = valid.largest
    multiple = np.maximum(valid.step // valid.blocks, 1)
    total = costs.flops(costs.full)
    while not within_limits(costs, widths, limits):
        best, width, score = -1, 0, np.inf
        for i, profile in enumerate(profiles):
            new = int(np.floor(step * widths[i])) // multiple[i] * multiple[i]
            if new < valid.smallest[i] or new == widths[i]:
                continue
            without = widths.copy()
            without[i] = 0
            share = (costs.flops(widths) - costs.flops(without)) / total
            value = float(profile.scores[valid.full[i] - new]) / max(share, 1e-12)
            if value < score:
                best, width, score = i, new, value
        if best < 0:
            return scale_widths(np.ones(len(valid.full)), costs, valid, limits)
        widths = widths.copy()
        widths[best] = width
    return widths
