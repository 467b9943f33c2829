"""Keep masks: (channels + 1,) bool over an analysis' channel ids, True for those that stay."""

from collections.abc import Sequence

import numpy as np

from fxprune.label.groups import Analysis


def keep_all(analysis: Analysis) -> np.ndarray:
    """Nothing goes; index 0 stands for everything that must stay."""
    return np.ones(len(analysis.group_of()), dtype=bool)


def keep_last(
    analysis: Analysis, orders: Sequence[np.ndarray], widths: Sequence[int] | np.ndarray
) -> np.ndarray:
    """The last channels of each group's removal order.

    Args:
        analysis: of the captured graph.
        orders: (blocks, width) channel ids per group, first removed first.
        widths: channels that stay in every block of each group.
    """
    mask = keep_all(analysis)
    for group, order, width in zip(analysis.groups, orders, widths, strict=True):
        mask[order[:, : group.width - int(width)].reshape(-1)] = False
    return mask
