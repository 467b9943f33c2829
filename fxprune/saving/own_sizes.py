"""Attributes of modules that may count the channels of a layer, and ways of setting some."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from fxprune.label.groups import Analysis, ChannelGroup
from fxprune.saving.attributes import SIZED

TRIALS = 24
"""Ways of setting attributes that are tried for one kind of group."""


@dataclass(frozen=True)
class Size:
    """An attribute of a module that counts channels.

    Attributes:
        path: of the module.
        name: of the attribute.
        ids: of the channels that it counts; 0 stands for such as always stay.
        owner: whether the module holds a tensor with these channels itself.
    """

    path: str
    name: str
    ids: np.ndarray
    owner: bool

    def value(self, keep_mask: np.ndarray) -> int:
        """What it is when these channels are left."""
        return int(keep_mask[self.ids].sum())


Sizes = tuple[Size, ...]


def pattern(name: str) -> str:
    """A name with its numbers left open."""
    return re.sub(r"\d+", "*", name)


def candidates(
    model: nn.Module, whole: Analysis, analysis: Analysis, family: Iterable[ChannelGroup]
) -> Iterator[Size]:
    """Attributes that may count channels of a family: of the modules that hold them, and of those
    around these.
    """
    seen = set[tuple[str, str, bytes]]()
    for group in family:
        places = [*group.members, *((c.parameter, c.axis) for c in group.consumers)]
        for parameter, axis in dict.fromkeys(places):
            owner = parameter.rpartition(".")[0]
            ids = analysis.axes[parameter, axis]
            counted = [(owner, ids, True)] if ids.ndim == 1 else []
            around = owner.rpartition(".")[0]
            each = [ids, group.blocks[0], *_parts(whole, group)]
            counted += [(around, own, False) for own in each if own.ndim == 1]
            for path, own, direct in counted:
                for name in _integers(model, path, own.size):
                    key = path, name, own.tobytes()
                    if key not in seen:
                        seen.add(key)
                        yield Size(path, name, own, direct)


def _parts(whole: Analysis, group: ChannelGroup) -> list[np.ndarray]:
    """All channels of a group, and of each that was tied to it."""
    names = set(group.tied)
    own = [g.blocks.reshape(-1) for g in whole.groups if g.name in names]
    return own or [group.blocks.reshape(-1)]


def _integers(model: nn.Module, path: str, value: int) -> list[str]:
    """Attributes of a module that are this number; torch's own layers are resized anyway."""
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return []
    if isinstance(module, SIZED):
        return []
    return [name for name, held in vars(module).items() if type(held) is int and held == value]


def options(candidates: Sequence[Size]) -> Iterator[Sizes]:
    """Ways of setting some of the attributes, those of like modules alike: none, all, the owners'
    alone and with one more, all but one.
    """
    kinds: dict[tuple[str, str], list[Size]] = {}
    for size in candidates:
        own = kinds.setdefault((pattern(size.path), size.name), [])
        if all(other.path != size.path for other in own):
            own.append(size)

    def chosen(keys: Iterable[tuple[str, str]]) -> Sizes:
        return tuple(size for key in keys for size in kinds[key])

    owners = [key for key, own in kinds.items() if own[0].owner]
    others = [key for key in kinds if key not in owners]
    ways: list[list[tuple[str, str]]] = [[], list(kinds), owners]
    ways += [[*owners, key] for key in others]
    ways += [[key for key in kinds if key != left] for left in kinds]
    tried = set[tuple[tuple[str, str], ...]]()
    for way in ways[:TRIALS]:
        if tuple(sorted(way)) not in tried:
            tried.add(tuple(sorted(way)))
            yield chosen(way)
