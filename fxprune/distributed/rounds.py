"""Tasks that ranks share out a round at a time, where results are kept as they come."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from fxprune.distributed.group import Group

T = TypeVar("T")


class Rounds(Generic[T]):
    """Tasks whose results are asked for one after the other, in `order`.

    A round takes about as long as its costliest task, so that no more than that is lost where the
    ranks are killed in it.

    Args:
        group: of the ranks.
        tasks: as `Group.share` takes them.
        costs: of each, on any scale.
        what: names the exchange.
        at_once: whether there is one round: nothing is kept.

    Attributes:
        order: numbers of the tasks, the costliest first.
    """

    def __init__(
        self,
        group: Group,
        tasks: Sequence[Callable[[], T]],
        costs: Sequence[float],
        what: str,
        *,
        at_once: bool,
    ):
        self._group, self._tasks, self._costs, self._what = group, tasks, costs, what
        self._at_once, self._ready = at_once, dict[int, T]()
        self.order = sorted(range(len(tasks)), key=lambda number: -costs[number])

    def result(self, number: int) -> T:
        """A task's; the same is asked for on all ranks."""
        if number not in self._ready:
            chosen = self._round(number)
            tasks, costs = [self._tasks[n] for n in chosen], [self._costs[n] for n in chosen]
            found = self._group.share(tasks, costs, self._what)
            self._ready.update(zip(chosen, found, strict=True))
        return self._ready.pop(number)

    def _round(self, first: int) -> list[int]:
        """A task, and those after it that others can do meanwhile."""
        rest = self.order[self.order.index(first) :]
        if self._group.size == 1:
            return rest[:1]
        room, chosen = self._group.size * self._costs[first], list[int]()
        for number in rest:
            room -= self._costs[number]
            if chosen and room < 0 and not self._at_once:
                break
            chosen.append(number)
        return chosen
