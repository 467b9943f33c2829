"""Channel groups that are to keep equal widths: one group of all their blocks."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from torch import nn

from fxprune.errors import PlanError
from fxprune.label.groups import Analysis, ChannelGroup
from fxprune.label.named import read_names


def tie(analysis: Analysis, sets: Iterable[Sequence[str]]) -> Analysis:
    """The analysis with groups put together: their blocks, of one width, keep equally many channels
    and choose each its own, as those of one group do.

    Args:
        analysis: of the captured graph.
        sets: names of the groups to put together; of one width each.

    Raises:
        PlanError: there is no group of a name.
    """
    groups = {group.name: group for group in analysis.groups}
    sets = [list(names) for names in sets]
    unknown = sorted({name for names in sets for name in names} - set(groups))
    if unknown:
        raise PlanError(f"The model has no channel group {unknown[0]!r} to tie to others.")
    first: dict[str, str] = {}
    for names in sets:
        for name in names[1:]:
            first[name] = names[0]
            groups[names[0]] = _joined(groups[names[0]], groups[name])
    left = tuple(groups[g.name] for g in analysis.groups if g.name not in first)
    normalized = frozenset(first.get(name, name) for name in analysis.normalized)
    return replace(analysis, groups=left, normalized=normalized)


def _joined(group: ChannelGroup, other: ChannelGroup) -> ChannelGroup:
    return ChannelGroup(
        group.name,
        np.concatenate([group.blocks, other.blocks]),
        tuple(dict.fromkeys((*group.members, *other.members))),
        (*group.consumers, *other.consumers),
        (*(group.tied or (group.name,)), *(other.tied or (other.name,))),
    )


def repeated(
    model: nn.Module, analysis: Analysis, patterns: Sequence[str] | str
) -> list[list[str]]:
    """Names of groups that are the same in repeated blocks of a model.

    Args:
        model: whose modules are named.
        analysis: of its graph.
        patterns: globs of the blocks, such as `model.layers.*`.

    Raises:
        PlanError: a glob names no two modules.
    """
    found: list[list[str]] = []
    for pattern in read_names(patterns, "uniform_across"):
        blocks = [n for n, _ in model.named_modules() if _matches(n, pattern)]
        if len(blocks) < 2:
            raise PlanError(
                f"uniform_across={pattern!r} names {len(blocks)} modules of the model: name its "
                f'repeated blocks, such as "model.layers.*". {_lists(model)}'
            )
        alike: dict[Any, list[str]] = {}
        for group in analysis.groups:
            key = _within(group, blocks)
            if key is not None:
                alike.setdefault(key, []).append(group.name)
        found += [names for names in alike.values() if len(names) > 1]
    return found


def _matches(name: str, pattern: str) -> bool:
    return name.count(".") == pattern.count(".") and fnmatchcase(name, pattern)


def _lists(model: nn.Module) -> str:
    names = [n for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 1]
    return f"It has {', '.join(f'{n}.*' for n in names[:4])}." if names else ""


def _within(group: ChannelGroup, blocks: Sequence[str]) -> Any:
    """A group's size and members by their names within the one block that holds them all; None
    where there is none.
    """
    for block in blocks:
        if all(name.startswith(f"{block}.") for name, _ in group.members):
            members = tuple((name[len(block) :], axis) for name, axis in group.members)
            return members, group.blocks.shape
    return None
