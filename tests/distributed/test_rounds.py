"""Tasks in rounds, of which each takes about as long as its costliest one."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from fxprune.distributed.group import ALONE, Group
from fxprune.distributed.rounds import Rounds
from tests.distributed.threads import ThreadChannel, on_threads

COSTS = (1.0, 8.0, 2.0, 4.0, 4.0)


class Several(Group):
    """Two ranks in one process, which notes what is shared out."""

    def __init__(self) -> None:
        super().__init__()
        self.size, self.shared = 2, list[list[float]]()

    def share(self, tasks: Sequence[Callable[[], Any]], costs: Sequence[float], what: str) -> Any:
        self.shared.append(list(costs))
        return super().share(tasks, costs, what)


def rounds(group: Group, at_once: bool) -> Rounds[float]:
    tasks = [partial(float.__mul__, cost, 10.0) for cost in COSTS]
    return Rounds(group, tasks, COSTS, "tasks", at_once=at_once)


def test_a_round_is_as_long_as_its_costliest_task() -> None:
    group = Several()
    own = rounds(group, at_once=False)
    assert own.order == [1, 3, 4, 2, 0]
    assert [own.result(number) for number in own.order] == [80.0, 40.0, 40.0, 20.0, 10.0]
    assert group.shared == [[8.0, 4.0, 4.0], [2.0, 1.0]]


def test_what_was_kept_is_not_asked_for() -> None:
    group = Several()
    own = rounds(group, at_once=False)
    assert [own.result(number) for number in (4, 0)] == [40.0, 10.0]
    assert group.shared == [[4.0, 2.0, 1.0]]


def test_one_round_where_nothing_is_kept() -> None:
    group = Several()
    own = rounds(group, at_once=True)
    assert [own.result(number) for number in own.order][-1] == 10.0
    assert len(group.shared) == 1


def test_one_process_does_one_after_the_other() -> None:
    own = rounds(ALONE, at_once=True)
    assert own.result(1) == 80.0
    assert not own._ready


def test_what_one_rank_does_goes_to_the_one_that_had_least() -> None:
    """And not to the first one, which solves the fits, where that is open."""

    def work(channel: ThreadChannel) -> list[list[str]]:
        group = Group(channel)
        here = f"rank {group.rank}"
        tasks = [lambda: here] * 4
        return [
            group.share(tasks[: len(costs)], costs, "tasks")
            for costs in ([9.0], [1.0, 5.0, 5.0], [9.0], [1.0, 1.0, 1.0, 1.0])
        ]

    first, *others = on_threads(work, 3)
    assert all(found == first for found in others)
    assert first == [
        ["rank 2"],
        ["rank 2", "rank 1", "rank 0"],
        ["rank 1"],
        ["rank 0", "rank 2", "rank 1", "rank 0"],
    ]
