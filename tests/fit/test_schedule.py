"""An order in which the calls that share something follow each other."""

import operator

from hypothesis import given
from hypothesis import strategies as st
from torch.fx import Graph, Node

from fxprune.fit.schedule import gather_calls


@st.composite
def graphs(draw: st.DrawFn) -> list[Node]:
    """Calls that each read some of those before."""
    graph = Graph()
    nodes = [graph.placeholder("x")]
    for _ in range(draw(st.integers(2, 12))):
        read = draw(st.lists(st.sampled_from(nodes), min_size=1, max_size=2))
        nodes.append(graph.call_function(operator.add, (read[0], read[-1])))
    return nodes


@st.composite
def tied(draw: st.DrawFn) -> tuple[list[Node], list[tuple[Node, ...]]]:
    """A graph, and some of its calls in disjoint tuples."""
    nodes = draw(graphs())
    owner = [draw(st.integers(0, 3)) for _ in nodes[1:]]
    parts = [
        tuple(node for node, part in zip(nodes[1:], owner, strict=True) if part == number)
        for number in (1, 2, 3)
    ]
    return nodes, [part for part in parts if len(part) > 1]


def follows(node: Node, others: set[Node]) -> bool:
    """Whether a node is computed from one of the others."""
    return any(source in others or follows(source, others) for source in set(node.all_input_nodes))


@given(tied())
def test_the_order_is_topological_and_tied_calls_stand_together(
    case: tuple[list[Node], list[tuple[Node, ...]]],
) -> None:
    nodes, calls = case
    order, together = gather_calls(nodes, calls)
    place = {node: i for i, node in enumerate(order)}
    assert sorted(order, key=nodes.index) == nodes
    assert all(place[source] < place[node] for node in nodes for source in node.all_input_nodes)
    assert set(together) <= set(calls)
    for part in together:
        assert [place[node] for node in part] == list(
            range(place[part[0]], place[part[0]] + len(part))
        )


@given(tied())
def test_only_calls_that_follow_from_each_other_stay_apart(
    case: tuple[list[Node], list[tuple[Node, ...]]],
) -> None:
    nodes, calls = case
    for part in calls:
        _, together = gather_calls(nodes, [part])
        assert bool(together) != any(follows(node, set(part)) for node in part)


@given(graphs())
def test_without_ties_the_order_stays(nodes: list[Node]) -> None:
    assert gather_calls(nodes, []) == (nodes, [])
