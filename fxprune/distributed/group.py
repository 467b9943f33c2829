"""The processes that compress one model together: what each does, and what all then have."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from fxprune.distributed.channel import Channel, form_of, pack, packed_form, unpack
from fxprune.distributed.totals import total
from fxprune.linalg.tree_sum import Terms, TreeSum

CPU = torch.device("cpu")
T = TypeVar("T")


class Group:
    """The processes that compress one model together.

    Args:
        channel: between them; None for a process that is alone.

    Attributes:
        rank, size: which of how many this process is.
    """

    def __init__(self, channel: Channel | None = None):
        self._channel = channel
        self.rank = 0 if channel is None else channel.rank
        self.size = 1 if channel is None else channel.size
        self._dealt = [0.0] * self.size

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes, prints and measures."""
        return self.rank == 0

    @property
    def sent(self) -> dict[str, int]:
        """Bytes that this rank has sent, by what for."""
        return {} if self._channel is None else self._channel.sent

    def gather(self, value: T, what: str) -> list[T]:
        """The value of every rank, in their order.

        Args:
            value: can be pickled; tensors come back on the CPU.
            what: names the exchange: the same on all ranks.
        """
        if self._channel is None:
            return [value]
        return self._channel.gather(value, what)

    def first(self, make: Callable[[], T], what: str) -> T:
        """What the first rank makes; the others do not make it.

        Args:
            make: gives a value that can be pickled; tensors come on the CPU to the other ranks.
            what: names the exchange.
        """
        if self._channel is None:
            return make()
        made: Any = make() if self.is_first else None
        told: T = self._channel.broadcast(made, what)
        return made if self.is_first else told

    def first_tensors(
        self, make: Callable[[], tuple[T, Mapping[str, Tensor]] | None], what: str
    ) -> tuple[T, Mapping[str, Tensor]] | None:
        """What the first rank makes of a value and tensors, of which one at a time travels.

        Args:
            make: gives a value that can be pickled, and tensors on the CPU; or None.
            what: names the exchange.
        """
        made = make() if self.is_first else None
        forms = None if made is None else {name: form_of(t) for name, t in made[1].items()}
        head = self.first(lambda: None if made is None else (made[0], forms), what)
        if self._channel is None or head is None:
            return made
        found = dict[str, Tensor]()
        for name, form in (head[1] or {}).items():
            packed = None if made is None else pack([made[1][name]])
            if math.prod(form[0]):
                packed = self._channel.spread(packed, packed_form([form]), what)
            found[name] = torch.empty(form[0], dtype=form[1], device=CPU)
            if packed is not None and len(packed):
                (found[name],) = unpack(packed, [form])
        return made or (head[0], found)

    def hand_in(self, make: Callable[[], T], source: int, what: str) -> T | None:
        """What one rank makes, on the first one; None on all others.

        Args:
            make: gives a value that can be pickled; tensors come on the CPU from other ranks.
            source: the rank that makes it.
            what: names the exchange.
        """
        if self._channel is None:
            return make()
        return self._channel.hand_in(make() if self.rank == source else None, source, what)

    def share(self, tasks: Sequence[Callable[[], T]], costs: Sequence[float], what: str) -> list[T]:
        """The results of tasks that any rank may do, in their order; the costliest go first, each
        to the rank that has least to do: of several, to the one that had least before, and not to
        the first one, which solves the fits.

        Args:
            tasks: that give what can be pickled; tensors come back on the CPU.
            costs: of each, on any scale.
            what: names the exchange.
        """
        if self._channel is None:
            return [task() for task in tasks]
        owners, load = [0] * len(tasks), [0.0] * self.size
        for number in sorted(range(len(tasks)), key=lambda n: -costs[n]):
            chosen = min(range(self.size), key=lambda rank: (load[rank], self._dealt[rank], -rank))
            owners[number], load[chosen] = chosen, load[chosen] + costs[number]
        self._dealt = [before + own for before, own in zip(self._dealt, load, strict=True)]
        own = {n: task() for n, task in enumerate(tasks) if owners[n] == self.rank}
        found = self.gather(own, what)
        return [found[owner][number] for number, owner in enumerate(owners)]

    def total(self, trees: Sequence[TreeSum], what: str, *, everywhere: bool) -> list[Terms | None]:
        """Sums over all ranks, added in the order of their trees.

        Args:
            trees: of this rank, as many on all of them; None in the result where none has terms.
            what: names the exchange.
            everywhere: whether all ranks are to have the sums, or the first one alone.
        """
        if self._channel is None:
            return [tree.total() for tree in trees]
        return total(self._channel, trees, what, everywhere=everywhere)

    def finish(self) -> None:
        """Wait until all ranks are done, and part."""
        if self._channel is not None and self._channel.is_open:
            self._channel.agree("finish")
            self._channel.part()

    def fail(self, error: Exception) -> NoReturn:
        """Tell the others of an error, and raise what all of them raise."""
        if self._channel is not None and self._channel.is_open:
            self._channel.agree("", error)
        raise error

    def leave(self) -> None:
        """Go without a word; the others' exchanges fail."""
        if self._channel is not None:
            self._channel.part()


ALONE = Group()
"""A process by itself."""
