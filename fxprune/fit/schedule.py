"""An order of execution in which the calls that share a weight follow each other."""

import heapq
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

from torch.fx import Node

Calls = tuple[Node, ...]


def gather_calls(nodes: Sequence[Node], tied: Sequence[Calls]) -> tuple[list[Node], list[Calls]]:
    """Reorder a graph's nodes so that the calls of each tuple stand together, otherwise as near to
    the given order as that allows.

    Args:
        nodes: in an order of execution.
        tied: calls that share something, each at most once.

    Returns:
        the order, and those of the tuples for which there is one: a call that follows from another
        of its tuple cannot stand beside it.
    """
    together = list(tied)
    while True:
        try:
            return _sort(nodes, together), together
        except CycleError as error:
            blocked = next(calls for calls in error.args[1] if len(calls) > 1)
            together.remove(blocked)


def _sort(nodes: Sequence[Node], together: Sequence[Calls]) -> list[Node]:
    """The nodes in a topological order of tuples: of those that are ready, the first one first.

    Raises:
        CycleError: a tuple follows from itself.
    """
    unit: dict[Node, Calls] = {node: (node,) for node in nodes}
    unit |= {node: calls for calls in together for node in calls}
    sorter = TopologicalSorter(
        {
            calls: {unit[source] for node in calls for source in node.all_input_nodes}
            for calls in unit.values()
        }
    )
    sorter.prepare()
    place = {node: i for i, node in enumerate(nodes)}
    ready: list[tuple[int, Calls]] = []
    order: list[Node] = []
    while sorter.is_active():
        for calls in sorter.get_ready():
            heapq.heappush(ready, (place[calls[0]], calls))
        _, calls = heapq.heappop(ready)
        order += calls
        sorter.done(calls)
    return order
