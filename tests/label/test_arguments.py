"""Each family of operators alone: what becomes of its arguments when channels go."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Node

from fxprune.capture.batch import make_batch
from fxprune.capture.export import Captured, capture
from fxprune.graph.operators import operator_name
from fxprune.label.analysis import analyze_graph
from fxprune.label.arguments import Rewriter
from fxprune.label.groups import Analysis
from fxprune.label.keep import keep_all
from fxprune.label.trial import conflicts
from tests.blocks import conv
from tests.nets import Net


def without(
    captured: Captured, gone: Mapping[str, Sequence[int]], axis: int = 0
) -> tuple[Analysis, np.ndarray]:
    """The analysis, and a mask without these outputs of these layers."""
    analysis = analyze_graph(captured.graph, 2)
    keep_mask = keep_all(analysis)
    for layer, outputs in gone.items():
        ids = analysis.axes[f"{layer}.weight", axis].reshape(-1)[list(outputs)]
        assert ids.all(), f"{layer} has outputs that stay"
        keep_mask[ids] = False
    return analysis, keep_mask


def rewritten(
    net: nn.Module, operator: str, gone: Mapping[str, Sequence[int]], *shape: int
) -> tuple[str, list[Any], dict[str, Any]]:
    """Operator, arguments that are no nodes, and keywords of the last call of `operator`, once
    these outputs of these layers are gone.
    """
    captured = capture(net.eval(), make_batch((torch.zeros(2, *(shape or (3, 4, 4))),), {}))
    analysis, keep_mask = without(captured, gone)
    assert not conflicts(captured.graph, analysis, keep_mask)
    rewriter = Rewriter(analysis, keep_mask)
    calls = [n for n in captured.graph.graph.nodes if operator_name(n.target) == f"aten.{operator}"]
    target, args, kwargs = rewriter.arguments(calls[-1])
    plain = [a for a in args if not isinstance(a, Node)]
    return operator_name(target).removeprefix("aten."), plain, kwargs


def net(between: "Callable[[Any], Any]", channels: int = 6, outputs: int = 6) -> Net:
    """A convolution `a` with 6 outputs, something, and a convolution `b` of so many channels."""
    return Net(lambda s, x: s.b(between(s.a(x))), a=conv(3, outputs), b=conv(channels, 2))


def test_view() -> None:
    flat = Net(lambda s, x: s.b(s.a(x).reshape(x.shape[0], 96)), a=conv(3, 6), b=nn.Linear(96, 2))
    name, (sizes,), _ = rewritten(flat, "reshape", {"a": [1, 4]})
    assert (name, sizes[1:]) == ("reshape", [64])


def test_a_size_that_is_left_open_stays() -> None:
    heads = net(lambda y: y.relu().view(2, -1, 4, 4))
    assert rewritten(heads, "reshape", {"a": [0]})[1] == [[2, -1, 4, 4]]


def test_unflatten() -> None:
    blocks = net(lambda y: y.unflatten(1, (2, 3)).relu().flatten(1, 2))
    name, plain, _ = rewritten(blocks, "unflatten", {"a": [1, 3]})
    assert (name, plain) == ("unflatten", [1, [2, 2]])


def test_expand() -> None:
    copies = net(lambda y: y.unsqueeze(1).expand(-1, 3, 6, 4, 4).sum(1))
    assert rewritten(copies, "expand", {"a": [1, 2]})[1] == [[-1, 3, 4, 4, 4]]


@pytest.mark.parametrize(
    ("operator", "sizes"), [("split_with_sizes", [2, 4]), ("split", 2), ("chunk", 3)]
)
def test_parts_need_not_be_equal_any_more(operator: str, sizes: Any) -> None:
    def cut(y: Any) -> Any:
        return y.chunk(sizes, 1) if operator == "chunk" else torch.split(y, sizes, 1)

    parts = Net(
        lambda s, x: [s.b(cut(s.a(x))[0]), s.c(cut(s.a(x))[1])],
        a=conv(3, 6),
        b=conv(2, 2),
        c=conv(4 if operator == "split_with_sizes" else 2, 2),
    )
    name, plain, kwargs = rewritten(parts, operator, {"a": [0, 3]})
    expected = [1, 3] if operator == "split_with_sizes" else [1, 1, 2]
    assert (name, plain, kwargs) == ("split_with_sizes", [expected, 1], {})


@pytest.mark.parametrize(
    ("start", "end", "expected"), [(1, 5, [1, 1, 3]), (-5, None, [1, 1]), (2, -1, [1, 1, 3])]
)
def test_slice(start: int, end: int | None, expected: list[int]) -> None:
    width = len(range(6)[start:end])
    sliced = Net(
        lambda s, x: [s.b(s.a(x)[:, start:end]), s.c(s.a(x))],
        a=conv(3, 6),
        b=conv(width, 2),
        c=conv(6, 2),
    )
    plain = rewritten(sliced, "slice", {"a": [1, 3]})[1]
    assert plain[: len(expected)] == expected


@pytest.mark.parametrize("start", [1, -5])
def test_narrow(start: int) -> None:
    part = Net(
        lambda s, x: [s.b(torch.narrow(s.a(x), 1, start, 4)), s.c(s.a(x))],
        a=conv(3, 6),
        b=conv(4, 2),
        c=conv(6, 2),
    )
    assert rewritten(part, "narrow", {"a": [0, 3]})[1] == [1, 0, 3]


@pytest.mark.parametrize(("cut", "expected"), [("narrow", [1, 0, 3]), ("slice", [1, 0, 3])])
def test_parts_of_what_has_channels_along_two_dimensions(cut: str, expected: list[int]) -> None:
    def part(x: Any) -> Any:
        return x.narrow(1, 1, 4) if cut == "narrow" else x[:, 1:5]

    made = Net(
        lambda s, x: [s.b(s.d(part(s.w(s.a(x)).relu()))), s.c(s.a(x))],
        a=conv(3, 6),
        w=nn.Linear(4, 5),
        d=nn.Linear(5, 4),
        b=conv(4, 2),
        c=conv(6, 2),
    )
    assert rewritten(made, cut, {"a": [0, 3], "w": [2]})[1] == expected


def test_slices_elsewhere_stay() -> None:
    cropped = net(lambda y: y[:, :, 1:3])
    assert rewritten(cropped, "slice", {"a": [0, 1, 2]})[1] == [2, 1, 3]


def test_select() -> None:
    # The one that is picked stays; before it two go.
    picked = Net(lambda s, x: [s.b(s.a(x)) + s.a(x)[:, 3].unsqueeze(1)], a=conv(3, 6), b=conv(6, 2))
    assert rewritten(picked, "select", {"a": [0, 2, 5]})[1] == [1, 1]


def test_pad() -> None:
    padded = net(lambda y: F.pad(y, (1, 1, 0, 0, 1, 2)), channels=9)
    captured = capture(padded.eval(), make_batch((torch.zeros(2, 3, 4, 4),), {}))
    # Of nine inputs: one is padding before, six are made by `a`, two are padding after.
    analysis, keep_mask = without(captured, {"b": [2, 3, 8]}, axis=1)
    assert not conflicts(captured.graph, analysis, keep_mask)
    (node,) = (n for n in captured.graph.graph.nodes if operator_name(n.target) == "aten.pad")
    assert Rewriter(analysis, keep_mask).arguments(node)[1][1] == [1, 1, 0, 0, 1, 1]


def test_slice_scatter() -> None:
    replaced = net(lambda y: torch.slice_scatter(y, y[:, 2:5] * 2, 1, 2, 5))
    assert rewritten(replaced, "slice_scatter", {"a": [0, 3]})[1] == [1, 1, 3]


def test_depthwise_groups_follow_the_channels() -> None:
    depthwise = Net(
        lambda s, x: s.b(s.d(s.a(x))), a=conv(3, 6), d=conv(6, 6, 3, groups=6), b=conv(6, 2)
    )
    captured = capture(depthwise.eval(), make_batch((torch.zeros(2, 3, 4, 4),), {}))
    analysis, keep_mask = without(captured, {"a": [0, 5]})
    nodes = [n for n in captured.graph.graph.nodes if operator_name(n.target) == "aten.conv2d"]
    rewriter = Rewriter(analysis, keep_mask)
    assert rewriter.arguments(nodes[1])[1][6] == 4
    assert rewriter.arguments(nodes[0]) == (nodes[0].target, nodes[0].args, {})


def test_groups_of_several_channels_stay() -> None:
    grouped = Net(lambda s, x: s.b(s.g(s.a(x))), a=conv(3, 6), g=conv(6, 6, groups=2), b=conv(6, 2))
    captured = capture(grouped.eval(), make_batch((torch.zeros(2, 3, 4, 4),), {}))
    analysis, keep_mask = without(captured, {"a": [0, 5]})
    nodes = [n for n in captured.graph.graph.nodes if operator_name(n.target) == "aten.conv2d"]
    assert not conflicts(captured.graph, analysis, keep_mask)
    assert Rewriter(analysis, keep_mask).arguments(nodes[1])[1][6] == 2


def test_group_norm_of_single_channels() -> None:
    normed = Net(lambda s, x: s.b(s.n(s.a(x))), a=conv(3, 6), n=nn.GroupNorm(6, 6), b=conv(6, 2))
    assert rewritten(normed, "group_norm", {"a": [1]})[1][0] == 5


class Attention(nn.Module):
    """Two heads of four channels."""

    def __init__(self, scale: float | None = None) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(5, 8) for _ in range(3))
        self.out = nn.Linear(8, 2)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> Any:
        q, k, v = (
            layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.out(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("given", "expected"), [(None, 0.5), (0.3, 0.3)])
def test_attention_keeps_the_originals_scale(given: float | None, expected: float) -> None:
    kwargs = rewritten(Attention(given), "scaled_dot_product_attention", {"q": [1, 6]}, 3, 5)[2]
    assert kwargs["scale"] == expected


def test_attention_with_all_its_queries_names_no_scale() -> None:
    kwargs = rewritten(Attention(), "scaled_dot_product_attention", {"v": [1, 6]}, 3, 5)[2]
    assert kwargs.get("scale") is None
