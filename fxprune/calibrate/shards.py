"""The examples that the ranks of a group read, as one list in one order.

A loader may be the same on every rank, or give every rank a share. Which it is, fingerprints tell.
The order is the data set's where a `DistributedSampler` dealt it out, so that it does not depend on
how many ranks there are; shares of other loaders stand one after the other.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DistributedSampler

from fxprune.calibrate.fingerprint import Kind, kind_of
from fxprune.calibrate.joined import Joined
from fxprune.capture.batch import Batch


@dataclass(frozen=True)
class Share:
    """What one rank has read.

    Attributes:
        marks: fingerprints of its examples, in its order.
        batch: examples of its first batch.
        dealt: (ranks, rank, examples in all) of the sampler that dealt them out, if one did.
    """

    marks: tuple[bytes, ...]
    batch: int
    dealt: tuple[int, int, int] | None = None


Where = tuple[int, int]
"""Rank and place in its order."""


def how_dealt(loader: Any) -> tuple[int, int, int] | None:
    """By which share of how many a loader's sampler deals examples out, and how many there are;
    None where nothing of that is known.
    """
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return None
    length = len(sampler.dataset)  # type: ignore[arg-type]
    return sampler.num_replicas, sampler.rank, length


def order_all(shares: Sequence[Share], rank: int) -> tuple[list[Where], bool]:
    """The common order of the examples, and whether a rank has all of them itself, from where it
    then takes them.
    """
    alike = _are_alike(shares)
    if not alike:
        return _common_order(shares), False
    return [(rank, place) for place in _local_order(shares[0], shares[rank])], True


def _are_alike(shares: Sequence[Share]) -> bool:
    """Whether all ranks read the same examples, in whatever order."""
    return len({tuple(sorted(share.marks)) for share in shares}) == 1


def _local_order(first: Share, own: Share) -> list[int]:
    """Where a rank has the examples of the first one, which it read in another order."""
    places = defaultdict[bytes, list[int]](list)
    for place, mark in reversed(list(enumerate(own.marks))):
        places[mark].append(place)
    return [places[mark].pop() for mark in first.marks]


def _common_order(shares: Sequence[Share]) -> list[Where]:
    """All examples of all ranks, each once: without those that a sampler added so that all shares
    are equally long.
    """
    ranks = len(shares)
    dealt = [share.dealt for share in shares]
    if dealt == [(ranks, rank, dealt[0][2] if dealt[0] else 0) for rank in range(ranks)]:
        length = dealt[0][2] if dealt[0] else 0
        every = [
            (place * ranks + rank, (rank, place))
            for rank, share in enumerate(shares)
            for place in range(len(share.marks))
        ]
        return [where for number, where in sorted(every) if number < length]
    ends = _without_repeated_ends(shares)
    return [(rank, place) for rank, end in enumerate(ends) for place in range(end)]


def _without_repeated_ends(shares: Sequence[Share]) -> list[int]:
    """How many examples of every share count: a tail that other ranks have too does not."""
    held = [Counter(share.marks) for share in shares]
    ends = [len(share.marks) for share in shares]
    for rank in reversed(range(len(shares))):
        others = [own for other, own in enumerate(held) if other != rank]
        while ends[rank]:
            mark = shares[rank].marks[ends[rank] - 1]
            if not any(own[mark] for own in others):
                break
            ends[rank] -= 1
            held[rank][mark] -= 1
    return ends


Numbered = tuple[list[int], Batch]
"""Examples with their places in the common order."""


class Gathering:
    """This rank's examples, in the common order.

    Args:
        kept: number of examples of every batch that it read, and what gives the batch.
        order: of all examples.
        rank: this one's.
    """

    def __init__(
        self,
        kept: Sequence[tuple[int, Callable[[], Batch]]],
        order: Sequence[Where],
        rank: int,
    ):
        self._kept, self._order, self._rank = kept, order, rank
        self._ends = np.cumsum([size for size, _ in kept], dtype=int)

    def own(self, start: int, stop: int) -> list[Numbered]:
        """Those from one place of the common order to another, batch by batch."""
        found = defaultdict[int, list[tuple[int, int]]](list)
        for number, (rank, place) in enumerate(self._order[start:stop], start):
            if rank == self._rank:
                batch = int(np.searchsorted(self._ends, place, side="right"))
                row = place - int(self._ends[batch] - self._kept[batch][0])
                found[batch].append((number, row))
        return [
            ([number for number, _ in rows], self._take(batch, [row for _, row in rows]))
            for batch, rows in found.items()
        ]

    def _take(self, number: int, rows: list[int]) -> Batch:
        return self._kept[number][1]().take(torch.tensor(rows))


def put_in_order(pieces: Iterable[Numbered]) -> Iterator[Numbered]:
    """Pieces put together in the common order: one batch of every kind."""
    kinds = defaultdict[Kind, list[Numbered]](list)
    for numbers, batch in sorted(pieces, key=lambda piece: piece[0][0]):
        kinds[kind_of(batch)].append((numbers, batch))
    for same in kinds.values():
        numbers = [number for own, _ in same for number in own]
        joined = Joined(same[0][1], len(numbers))
        for _, batch in same:
            joined.add(batch)
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        yield [numbers[at] for at in order], joined.batch().take(torch.tensor(order))
