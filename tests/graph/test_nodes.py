"""Facts about nodes: constants, where a call came from, names."""

import pytest
import torch
from torch import nn
from torch.fx import Graph, GraphModule

from fxprune.graph.nodes import argument, attribute, constants, module_path, where
from fxprune.graph.tensors import names_of, owner_of, set_attribute, set_parameter

aten = torch.ops.aten


def test_constants_follow_from_parameters_or_from_nothing() -> None:
    graph, root = Graph(), nn.Module()
    root.register_buffer("table", torch.zeros(3))
    x, table = graph.placeholder("x"), graph.get_attr("table")
    made = graph.call_function(aten.arange.default, (3,))
    folded = graph.call_function(aten.neg.default, (table,))
    both = graph.call_function(aten.add.Tensor, (made, folded))
    graph.output(graph.call_function(aten.add.Tensor, (x, both)))
    module = GraphModule(root, graph)
    assert constants(module) == {table, made, folded, both}
    assert constants(module, made=False) == {table, folded}


@pytest.mark.parametrize(
    ("path", "expected"),
    [("layer1.0", "layer1.0"), ("L['self'].layer1", "layer1"), ("L['self']", ""), ("", "")],
)
def test_the_module_a_call_came_from(path: str, expected: str) -> None:
    graph = Graph()
    node = graph.call_function(aten.neg.default, (graph.placeholder("x"),))
    assert (module_path(node), where(node)) == ("", "model: neg_default")
    node.meta["nn_module_stack"] = {"outer": ("", nn.Module), "inner": (path, nn.Module)}
    assert module_path(node) == expected
    assert where(node) == f"{expected or 'model'}: neg_default"
    assert (argument(node, 1, 5), argument(node, 0)) == (5, node.args[0])


def test_tensors_by_their_names() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert attribute(module, "") is module
    assert attribute(module, "1.weight") is module[1].weight
    assert owner_of(module, "1.weight") == (module[1], "weight")
    assert owner_of(module, "1") == (module, "1")
    set_attribute(module, "1.weight", module[0].weight)
    assert names_of(module)["1.weight"] == "0.weight"
    made = nn.Parameter(torch.ones(1))
    set_parameter(module, "new.inner.weight", made)
    set_parameter(module, "0.weight", made)
    assert attribute(module, "new.inner.weight") is module[0].weight is made
