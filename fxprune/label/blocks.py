"""Block structures: channels of which equally many stay in each of several blocks (heads, groups).

Each recorded structure is a table of labels, one row per block. Channels in it are divided by the
rows they occur in; a channel that takes part in several structures lies where all of them put it.
Weight axes whose channels share a structure choose together, so they form one channel group, whose
blocks must then be of one size.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np
from torch import Tensor

from fxprune.rules.labels import distinct

Sites = tuple[tuple[str, int], ...]
"""Weight axes, as (parameter, axis), that hold the same channels."""
Path = tuple[int, ...]
"""Where a channel lies: number and part of every structure it takes part in."""

STAYS = "shares its blocks with channels that stay"


def divide(
    free: dict[Sites, list[int]], structures: Sequence[tuple[Tensor, bool]], component: np.ndarray
) -> tuple[list[tuple[np.ndarray, Sites]], dict[int, str]]:
    """Divide channels into groups of blocks of equal size.

    Args:
        free: channels (components) that may go, by the weight axes that hold them.
        structures: recorded tables of labels, (blocks, size) each, and whether their rows must
            keep equal counts even where each is one channel.
        component: of every label.

    Returns:
        per group its channels, (blocks, size), and all weight axes that hold them; and why the
        other channels stay.
    """
    home = {channel: i for i, channels in enumerate(free.values()) for channel in channels}
    paths, shared, dropped = _read(structures, component, home)
    sites, channels_at = list(free), list(free.values())
    groups = []
    for members in _join(len(free), shared):
        channels = [channel for i in members for channel in channels_at[i]]
        blocks: dict[tuple[int, Path], list[int]] = defaultdict(list)
        for channel in channels:
            blocks[home[channel], paths.get(channel, ())].append(channel)
        reason = STAYS if not dropped.keys().isdisjoint(channels) else _refuse(blocks.values())
        if reason:
            dropped.update(dict.fromkeys(channels, reason))
            continue
        together = dict.fromkeys(site for i in members for site in sites[i])
        groups.append((np.array(list(blocks.values())), tuple(together)))
    return groups, dropped


def _read(
    structures: Sequence[tuple[Tensor, bool]], component: np.ndarray, home: dict[int, int]
) -> tuple[dict[int, Path], list[list[int]], dict[int, str]]:
    """The path of every channel in a structure, the homes that share one, and channels that stay
    because a structure holds fixed ones.
    """
    paths: dict[int, Path] = defaultdict(tuple)
    shared: list[list[int]] = []
    dropped: dict[int, str] = {}
    for number, (labels, strict) in enumerate(structures):
        present = np.unique(component[distinct(labels)]).tolist()
        channels = [channel for channel in present if channel in home]
        if not channels:
            continue
        rows = component[labels.numpy()]
        if not strict and (rows == rows[:, :1]).all():
            continue
        if len(channels) < len(present):
            # Fixed channels share the blocks: counts stay equal only if nothing is removed.
            dropped.update(dict.fromkeys(channels, STAYS))
            continue
        parts = _parts(rows)
        if parts:
            shared.append(sorted({home[channel] for channel in channels}))
        for channel, part in parts.items():
            paths[channel] = (*paths[channel], number, part)
    return paths, shared, dropped


def _parts(rows: np.ndarray) -> dict[int, int]:
    """Number of the part of a table, (blocks, size), that each channel lies in: channels of one
    part occur in the same rows. Empty where all occur in every row, which divides nothing.
    """
    occurs: dict[int, set[int]] = defaultdict(set)
    for i, row in enumerate(rows):
        for channel in row.tolist():
            occurs[channel].add(i)
    parts = {frozenset(where) for where in occurs.values()}
    if all(len(part) == len(rows) for part in parts):
        return {}
    numbers = {part: i for i, part in enumerate(sorted(parts, key=sorted))}
    return {channel: numbers[frozenset(where)] for channel, where in occurs.items()}


def _join(count: int, shared: list[list[int]]) -> list[list[int]]:
    """Indices up to `count`, those that stand in a list together in one."""
    root = np.arange(count)
    for indices in shared:
        for other in indices:
            root[root == root[other]] = root[indices[0]]
    return [np.flatnonzero(root == r).tolist() for r in np.unique(root)]


def _refuse(blocks: Collection[list[int]]) -> str:
    """Why nothing can be chosen in these blocks; empty where it can."""
    sizes = {len(block) for block in blocks}
    if len(sizes) != 1:
        return "its block structures do not nest"
    if sizes != {1}:
        return ""
    if len(blocks) == 1:
        return "one indivisible channel"
    return "its block structures leave one channel per block"
