"""Convolutions read from calls, against torch's own layers and kernels."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import Graph, Node

from fxprune.graph.convolution import (
    CONVOLUTIONS,
    TRANSPOSED,
    bias_of,
    channel_dim,
    convolution_of,
    groups,
    read_convolution,
    reads_weight,
)

aten = torch.ops.aten
LAYERS: dict[tuple[int, bool], Any] = {
    (1, False): nn.Conv1d,
    (2, False): nn.Conv2d,
    (3, False): nn.Conv3d,
    (1, True): nn.ConvTranspose1d,
    (2, True): nn.ConvTranspose2d,
    (3, True): nn.ConvTranspose3d,
}


def placeholder(graph: Graph, tensor: Tensor) -> Node:
    node = graph.placeholder(f"x{len(graph.nodes)}")
    node.meta["val"] = tensor
    return node


@st.composite
def layers(draw: st.DrawFn) -> nn.Module:
    rank, transposed = draw(st.integers(1, 3)), draw(st.booleans())
    size = st.integers(1, 3)
    count = draw(st.sampled_from([1, 2, 4]))
    options: dict[str, Any] = {"groups": count, "bias": draw(st.booleans())}
    for name in ("stride", "dilation"):
        options[name] = tuple(draw(size) for _ in range(rank))
    padding = st.tuples(*[st.integers(0, 2)] * rank)
    options["padding"] = draw(padding)
    if not transposed and max(options["stride"]) == 1:
        options["padding"] = draw(st.sampled_from(["same", "valid", options["padding"]]))
    kernel = tuple(draw(size) for _ in range(rank))
    layer: nn.Module = LAYERS[rank, transposed](
        count * draw(size), count * draw(size), kernel, **options
    )
    return layer


@settings(deadline=None, max_examples=50)
@given(layers(), st.booleans())
def test_a_layers_call_is_read_as_the_layer(layer: Any, batched: bool) -> None:
    rank = len(layer.kernel_size)
    graph = Graph()
    x = torch.zeros(*[2] * batched, layer.in_channels, *[9] * rank)
    weight = placeholder(graph, layer.weight)
    last = (
        (layer.output_padding, layer.groups, layer.dilation)
        if layer.transposed
        else (layer.dilation, layer.groups)
    )
    name = f"conv_transpose{rank}d" if layer.transposed else f"conv{rank}d"
    overload = "input" if layer.transposed and rank > 1 else "default"
    if isinstance(layer.padding, str):
        overload = "padding"
    target = getattr(getattr(aten, name), overload)
    node = graph.call_function(
        target, (placeholder(graph, x), weight, None, layer.stride, layer.padding, *last)
    )
    found = convolution_of(node)
    assert found is not None
    assert (found.rank, found.transposed, found.groups) == (rank, layer.transposed, layer.groups)
    for setting in ("stride", "padding", "dilation", "output_padding"):
        assert getattr(found, setting) == getattr(layer, setting)
    assert node.args[found.groups_at] == groups(node) == layer.groups
    assert x.shape[found.channel(x.dim())] == layer.in_channels
    assert layer.weight.shape[found.inputs] * (1 if layer.transposed else layer.groups) == (
        layer.in_channels
    )
    node.meta["val"] = layer(x)
    assert node.meta["val"].shape[channel_dim(node, layer.weight.dim())] == layer.out_channels


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 4), st.integers(1, 3), st.sampled_from(["same", "valid", (0,), (1,), (2,)]))
def test_zeros_before_the_first_element(kernel: int, dilation: int, padding: Any) -> None:
    found = read_convolution("aten.conv1d", (None, None, None, 1, padding, dilation), {})
    assert found is not None
    (before,) = found.padding_before((kernel,))
    # A kernel that is one at its first tap moves the signal by what stands before it.
    weight = torch.zeros(1, 1, kernel)
    weight[..., 0] = 1
    x = torch.arange(1.0, 13.0).view(1, 1, -1)
    given = list(padding) if isinstance(padding, tuple) else padding
    if isinstance(given, str):
        moved = aten.conv1d.padding(x, weight, None, [1], given, [dilation])
    else:
        moved = aten.conv1d.default(x, weight, None, [1], given, [dilation])
    assert moved.flatten()[before:][:3].tolist() == [1.0, 2.0, 3.0]
    assert not moved.flatten()[:before].any()


@pytest.mark.parametrize("transposed", [False, True])
def test_the_general_operator_says_what_it_is(transposed: bool) -> None:
    graph = Graph()
    x, weight = (placeholder(graph, torch.zeros(s)) for s in ((2, 4, 5, 5), (4, 2, 3, 3)))
    # One number stands for all kernel axes here too.
    args = (x, weight, None, [2], [1, 0], [1], transposed, [0], 2)
    found = convolution_of(graph.call_function(aten.convolution.default, args))
    assert found is not None
    assert (found.rank, found.transposed, found.groups, found.groups_at) == (2, transposed, 2, 8)
    assert (found.stride, found.padding) == ((2, 2), (1, 0))
    assert (found.inputs, found.outputs) == ((0, 1) if transposed else (1, 0))


def test_what_a_call_leaves_out_is_torchs_default() -> None:
    for name in (*CONVOLUTIONS, *TRANSPOSED):
        found = read_convolution(name, (None, None), {"groups": 3})
        assert found is not None
        ones, zeros = (1,) * found.rank, (0,) * found.rank
        assert (found.stride, found.padding, found.dilation) == (ones, zeros, ones)
        assert (found.output_padding, found.groups) == (zeros, 3)


def test_other_calls_are_none() -> None:
    graph = Graph()
    x = placeholder(graph, torch.zeros(2, 3))
    bias = graph.get_attr("layer.bias")
    linear = graph.call_function(aten.linear.default, (x, x, bias))
    product = graph.call_function(aten.mm.default, (x, x))
    assert convolution_of(x) is convolution_of(linear) is convolution_of(product) is None
    assert groups(linear) == 1
    assert reads_weight(linear)
    assert not reads_weight(product)
    assert not reads_weight(x)
    assert (bias_of(linear), bias_of(product)) == ("layer.bias", None)
