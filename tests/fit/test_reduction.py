"""Which calls of a reduced graph still compute what the original's do."""

import torch
from torch import nn

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.fit.reduction import Reduction
from fxprune.label.analysis import analyze_graph
from fxprune.label.keep import keep_first
from fxprune.passes import ReduceChannels
from tests.nets import Net


def unchanged(model: nn.Module, widths: dict[str, int], *shape: int) -> list[str]:
    """Calls that are known to be the original's where these groups keep so many channels."""
    found = capture(model.eval(), make_batch((torch.ones(2, *shape),), {})).graph
    analysis = analyze_graph(found, 2)
    keep_mask = keep_first(analysis, [widths.get(g.name, g.width) for g in analysis.groups])
    small = ReduceChannels(analysis, keep_mask)(found).graph_module
    reduction = Reduction(found, small, analysis, keep_mask)
    known = [n.name for n in found.graph.nodes if n.op == "placeholder"]
    for node in found.graph.nodes:
        if node.op == "call_function" and reduction.is_unchanged(node, set(known)):
            known.append(node.name)
    return known[1:]


def test_what_follows_a_change_has_changed() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    assert unchanged(net, {}, 6) == ["linear", "relu", "linear_1", "relu_1", "linear_2"]
    assert unchanged(net, {"2": 3}, 6) == ["linear", "relu"]
    assert unchanged(net, {"0": 4}, 6) == []


def test_a_branch_beside_a_change_stays() -> None:
    net = Net(
        lambda s, x: s.c(torch.relu(s.a(x))) + s.d(torch.relu(s.b(x))).sigmoid(),
        **{name: nn.Linear(6, 6) for name in "abcd"},
    )
    assert unchanged(net, {"a": 4}, 6) == ["linear_2", "relu_1", "linear_3", "sigmoid"]


def test_a_call_with_other_arguments_has_changed() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Unflatten(1, (4, 1)), nn.Flatten(), nn.Linear(16, 3))
    assert unchanged(net, {"0": 2}, 3, 2, 2) == []


def test_a_weight_that_is_moved_first_is_looked_at() -> None:
    net = Net(lambda s, x: torch.relu(x @ s.first.T) @ s.second.T)
    net.register_parameter("first", nn.Parameter(torch.ones(8, 6)))
    net.register_parameter("second", nn.Parameter(torch.ones(3, 8)))
    assert "matmul" in unchanged(net, {}, 6)
    assert "matmul" not in unchanged(net, {"first": 4}, 6)
