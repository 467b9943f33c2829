"""Which examples go through a model together, and where each batch stands in its stream: decided
from sizes alone, so that all processes decide alike and each reads only the batches it works on.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fxprune.capture.batch import Batch
from fxprune.distributed.group import Group
from fxprune.distributed.shares import deal
from fxprune.distributed.sums import BY_ITSELF, Sums
from fxprune.linalg.tree_sum import leaf_of

WAITING = 8
"""Kinds of which incomplete batches wait for more examples at a time."""
GOLDEN = 0x9E3779B97F4A7C15
"""Keeps seeds of places apart: 2^64 over the golden ratio (Steele, Lea, Flood, OOPSLA 2014)."""

Piece = tuple[int, np.ndarray]
"""Number of a kept batch, and which of its examples."""


@dataclass(frozen=True)
class Place:
    """Where a batch stands in a stream.

    Attributes:
        first: how many examples come before it, copies that fill batches included.
        leaf: of the tree in which sums over the stream are added.
    """

    first: int = 0
    leaf: int = 0


@dataclass(frozen=True)
class Planned:
    """A batch to be.

    Attributes:
        pieces: what it is put together of.
        numbers: (examples,) of its own, without copies.
        size: examples, copies included.
        place: in its stream.
    """

    pieces: tuple[Piece, ...]
    numbers: np.ndarray
    size: int
    place: Place


@dataclass(frozen=True)
class Placed:
    """A batch of a stream.

    Attributes:
        place: in the stream.
        numbers: (examples,) of its own, without copies.
        batch: the call.
    """

    place: Place
    numbers: np.ndarray
    batch: Batch


@dataclass(frozen=True)
class Shared:
    """A stream of which every rank takes its share.

    Attributes:
        batches: all of them.
        sums: who works on which.
    """

    batches: Sequence[Planned]
    sums: Sums

    @property
    def mine(self) -> list[Planned]:
        """The batches that this rank works on: a run of them."""
        return [batch for batch in self.batches if self.sums.is_mine(batch.place.leaf)]

    @property
    def size(self) -> int:
        """Examples in all, copies included."""
        return sum(batch.size for batch in self.batches)


def in_order_of_sums(
    streams: Mapping[str, Shared], names: Iterable[str]
) -> list[tuple[Planned, str, int]]:
    """Batches of some streams in the order in which one process adds what they give, each with the
    name of its stream and the rank that works on it.
    """
    every = [
        (batch, name, streams[name].sums.owner(batch.place.leaf))
        for name in names
        for batch in streams[name].batches
    ]
    return sorted(every, key=lambda one: one[0].place.leaf)


def seed_of(seed: int, place: Place) -> int:
    """What is drawn on a batch goes by where it stands, not by who draws.

    Args:
        seed: of the whole draw.
        place: of the batch.
    """
    return (seed + place.first * GOLDEN) % 2**63


def in_order(batches: Iterable[Batch], first: int = 0) -> Iterator[tuple[Place, Batch]]:
    """Batches that come one after the other, all at one leaf.

    Args:
        batches: the batches.
        first: examples that come before them.
    """
    for batch in batches:
        yield Place(first), batch
        first += batch.size


def plan_batches(
    kinds: Sequence[tuple[Hashable, int]],
    chosen: np.ndarray | None,
    most: int,
    chunk: int,
    exact: int = 0,
    first: int = 0,
    stream: int = 0,
) -> list[Planned]:
    """Put what is chosen of neighboring batches of the same kind together.

    Args:
        kinds: of the kept batches: what two must have in common to be put together, and examples.
        chosen: (examples,) bool; all by default.
        most: examples of a batch.
        chunk: examples that a kept batch is cut into.
        exact: examples of every batch, the last ones copies; 0 where any number will do.
        first: examples that come before.
        stream: which of those that are added up together.
    """
    gathered = list(_gather(_pieces(kinds, chosen, chunk), most, filled=exact > 0))
    starts = np.cumsum([0, *(size for _, size in kinds)])
    planned = list[Planned]()
    for number, pieces in enumerate(gathered):
        numbers = np.concatenate([own for _, own in pieces])
        local = tuple((kept, own - starts[kept]) for kept, own in pieces)
        size = max(len(numbers), exact)
        place = Place(first, leaf_of(number, len(gathered), stream))
        planned.append(Planned(local, numbers, size, place))
        first += size
    return planned


def _gather(
    pieces: Iterable[tuple[Hashable, Piece]], most: int, filled: bool
) -> Iterator[list[Piece]]:
    """Pieces that make a batch each; those of a fixed size are `filled` up with parts of pieces,
    not with copies.
    """
    waiting: dict[Hashable, list[Piece]] = {}
    for kind, piece in pieces:
        own = waiting.get(kind)
        if own is not None:
            kept, numbers = piece
            room = most - sum(len(waits) for _, waits in own)
            taken = len(numbers) if len(numbers) <= room else room * filled
            if taken:
                own.append((kept, numbers[:taken]))
            if taken == len(numbers):
                continue
            yield waiting.pop(kind)
            piece = kept, numbers[taken:]
        if len(piece[1]) == most:
            yield [piece]
            continue
        if len(waiting) == WAITING:
            yield waiting.pop(next(iter(waiting)))
        waiting[kind] = [piece]
    yield from waiting.values()


def _pieces(
    kinds: Sequence[tuple[Hashable, int]], chosen: np.ndarray | None, chunk: int
) -> Iterator[tuple[Hashable, Piece]]:
    """What is chosen of every kept batch, cut into at most `chunk` examples, by their numbers."""
    seen = 0
    for kept, (kind, size) in enumerate(kinds):
        start, seen = seen, seen + size
        numbers = start + np.flatnonzero(np.ones(size) if chosen is None else chosen[start:seen])
        for at in range(0, len(numbers), chunk):
            yield kind, (kept, numbers[at : at + chunk])


def share_out(batches: Sequence[Planned], group: Group) -> Shared:
    """Give every rank a run of leaves with about as many examples."""
    if group.size == 1:
        return Shared(batches, BY_ITSELF)
    sizes = dict[int, int]()
    for batch in batches:
        sizes[batch.place.leaf] = sizes.get(batch.place.leaf, 0) + batch.size
    return Shared(batches, Sums(group, deal(sizes, group.size)))
