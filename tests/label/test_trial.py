"""The trial finds choices that do not fit together, and says where and which channels."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fxprune.capture.batch import make_batch
from fxprune.capture.export import Captured, capture
from fxprune.label.analysis import analyze_graph
from fxprune.label.groups import Analysis
from fxprune.label.keep import keep_all, keep_random
from fxprune.label.survivors import Conflict
from fxprune.label.trial import check, conflicts
from tests.blocks import conv
from tests.nets import Net


def analyzed(net: nn.Module) -> tuple[Captured, Analysis]:
    captured = capture(net.eval(), make_batch((torch.zeros(2, 3, 4, 4),), {}))
    return captured, analyze_graph(captured.graph, 2)


def residual() -> nn.Module:
    return Net(lambda s, x: s.c(s.a(x) + s.b(s.a(x))), a=conv(3, 6), b=conv(6, 6), c=conv(6, 2))


def test_every_choice_in_the_groups_fits() -> None:
    captured, analysis = analyzed(residual())
    for seed in range(5):
        check(captured.graph, analysis, keep_random(analysis, np.random.default_rng(seed)))
    check(captured.graph, analysis, keep_all(analysis))


def test_channels_that_were_separated_are_named() -> None:
    captured, analysis = analyzed(residual())
    # As though the two sides of the addition were free of each other.
    axes = dict(analysis.axes)
    left = analysis.axes["a.weight", 0]
    for name in ("b.weight", "b.bias"):
        axes[name, 0] = axes[name, 0] + left.max()
    torn = Analysis(
        analysis.values, axes, analysis.groups, (), analysis.consumers, analysis.foldable, (), 2
    )
    keep_mask = np.ones(2 * left.max() + 1, dtype=bool)
    keep_mask[[left[0], left[1] + left.max()]] = False
    found = conflicts(captured.graph, torn, keep_mask)
    assert [f.where for f in found][:1] == ["b: conv2d_2"]
    # All that is left: none of it meets its own.
    left_over = set(np.flatnonzero(keep_mask).tolist()) - {0}
    assert set(found[0].labels.flatten().tolist()) == left_over
    with pytest.raises(Conflict, match=r"^b: conv2d_2: "):
        check(captured.graph, torn, keep_mask)


def test_shapes_that_no_operator_takes_are_named() -> None:
    captured, analysis = analyzed(residual())
    ids = analysis.axes["a.weight", 0]
    # A size in the graph that the analysis knows nothing of.
    graph = captured.graph.graph
    (addition,) = (n for n in graph.nodes if str(n.target) == "aten.add.Tensor")
    with graph.inserting_after(addition):
        fixed = graph.call_function(torch.ops.aten.slice.Tensor, (addition, 1, 0, 6))
    assert ids.all()
    fixed.meta["val"] = addition.meta["val"]
    analysis.values[fixed.name] = analysis.values[addition.name]
    addition.replace_all_uses_with(fixed, lambda user: user is not fixed)
    keep_mask = keep_all(analysis)
    keep_mask[ids[:2]] = False
    # The argument is mended where its operator is known ...
    assert not conflicts(captured.graph, analysis, keep_mask)
    # ... and a conflict where it is not.
    fixed.target = torch.ops.aten.as_strided.default
    fixed.args = (addition, [2, 6, 4, 4], [96, 16, 4, 1])
    found = conflicts(captured.graph, analysis, keep_mask)
    assert found
    assert found[0].where.endswith(fixed.name)
    assert set(ids.tolist()) <= set(found[0].labels.flatten().tolist())


def test_unequal_blocks_are_a_conflict() -> None:
    net = Net(lambda s, x: s.c(s.g(s.a(x))), a=conv(3, 6), g=conv(6, 4, groups=2), c=conv(4, 2))
    captured, analysis = analyzed(net)
    keep_mask = keep_all(analysis)
    (group,) = (g for g in analysis.groups if g.name == "a")
    keep_mask[group.blocks[0, :1]] = False
    with pytest.raises(Conflict, match="g.weight: convolution groups keep unequal counts"):
        check(captured.graph, analysis, keep_mask)
    keep_mask[group.blocks[1, :1]] = False
    check(captured.graph, analysis, keep_mask)


@pytest.mark.parametrize(("left", "right"), [(4, 3), (8, 8)])
def test_one_of_two_groups_that_cross_is_picked(left: int, right: int) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        crossed = (net.left(x)[:, :, None] * net.right(x)[:, None]).flatten(1)
        result: Tensor = net.head(crossed.select(1, 0).unsqueeze(1))
        return result

    layers = {"left": nn.Linear(3, left), "right": nn.Linear(3, right), "head": nn.Linear(1, 2)}
    captured = capture(Net(forward, **layers).eval(), make_batch((torch.zeros(2, 3),), {}))
    analysis = analyze_graph(captured.graph, 2)
    assert not any(group.consumers for group in analysis.groups)
    for seed in range(5):
        check(captured.graph, analysis, keep_random(analysis, np.random.default_rng(seed)))
