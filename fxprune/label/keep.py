"""Keep masks: which channels of an analysis stay, (channels + 1,) bool by channel id; index 0
stands for everything that nothing may remove and is always True.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from fxprune.label.groups import Analysis


def keep_all(analysis: Analysis) -> np.ndarray:
    """The mask that removes nothing."""
    return np.ones(len(analysis.group_of()), dtype=bool)


def keep_last(
    analysis: Analysis, orders: Sequence[np.ndarray], widths: Sequence[int] | np.ndarray
) -> np.ndarray:
    """The last channels of each group's removal order.

    Args:
        analysis: of the captured graph.
        orders: per group its channel ids in the order in which they go, (blocks, width).
        widths: per group the channels to keep in each block.
    """
    keep_mask = keep_all(analysis)
    for group, order, width in zip(analysis.groups, orders, widths, strict=True):
        keep_mask[order[:, : group.width - int(width)].reshape(-1)] = False
    return keep_mask


def keep_first(analysis: Analysis, widths: Sequence[int] | np.ndarray) -> np.ndarray:
    """The first channels of each block, for what depends on their number only.

    Args:
        analysis: of the captured graph.
        widths: per group the channels to keep in each block.
    """
    keep_mask = keep_all(analysis)
    for group, width in zip(analysis.groups, widths, strict=True):
        keep_mask[group.blocks[:, int(width) :].reshape(-1)] = False
    return keep_mask


def keep_random(
    analysis: Analysis,
    generator: np.random.Generator,
    widths: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """Channels chosen at random, in each block for itself.

    Args:
        analysis: of the captured graph.
        generator: of the choice.
        widths: per group the channels to keep in each block; by default a random number of each
            group, at least one and not all.
    """
    keep_mask = keep_all(analysis)
    for i, group in enumerate(analysis.groups):
        width = int(generator.integers(1, group.width) if widths is None else widths[i])
        for block in group.blocks:
            keep_mask[generator.permutation(block)[width:]] = False
    return keep_mask


def keep_apart(analysis: Analysis) -> Iterator[np.ndarray]:
    """Masks under which of any two blocks of a group each once keeps later channels than the other:
    what puts blocks side by side by position (a channel shuffle) then puts them in another order
    than the one in which they survive.

    Few are enough: blocks are told apart by the digits of their number. A group of one block
    stays whole, and others do once their digits are used up. None where all are such.
    """
    blocked = [group for group in analysis.groups if len(group.blocks) > 1]
    places = {group.name: group.width - group.width // 2 + 1 for group in blocked}
    digit = 1
    while blocked:
        numbers = {
            group.name: np.arange(len(group.blocks)) // places[group.name] ** (digit - 1)
            for group in blocked
        }
        for falling in (True, False):
            keep_mask = keep_all(analysis)
            for group in blocked:
                first = numbers[group.name] % places[group.name]
                if falling:
                    first = places[group.name] - 1 - first
                for block, start in zip(group.blocks, first.tolist(), strict=True):
                    keep_mask[block] = False
                    keep_mask[block[start : start + group.width // 2]] = True
            yield keep_mask
        blocked = [g for g in blocked if len(g.blocks) > places[g.name] ** digit]
        digit += 1
