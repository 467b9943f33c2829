"""What a layer reads at sampled positions gives its outputs there; survivors keep their places."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx import Graph, Node

from fxprune.fit.layer import as_matrices
from fxprune.fit.rows import keep_survivors, kept_indices, read_features, split_groups
from fxprune.rules.labels import Value
from tests.tensors import EXACT, distance, normal

CONVOLUTIONS = (
    torch.ops.aten.conv1d,
    torch.ops.aten.conv2d,
    torch.ops.aten.conv3d,
)


def call(operator: Any, *settings: Any) -> Node:
    """A call of a layer on an input and a weight without bias."""
    graph = Graph()
    x, weight = graph.placeholder("x"), graph.placeholder("weight")
    return graph.call_function(operator, (x, weight, None, *settings))


def positions(output: Tensor, channel: int) -> tuple[Tensor, Tensor]:
    """All positions of an output, (dimensions, rows), and the channels there."""
    moved = output.movedim(channel, -1)
    at = torch.tensor(list(itertools.product(*(range(size) for size in moved.shape[:-1])))).T
    return at, moved[tuple(at)]


def outputs_of(features: Tensor, weight: Tensor, groups: int) -> Tensor:
    """(rows, channels) that a weight makes of features."""
    outputs = split_groups(features, groups) @ as_matrices(weight, groups).mT
    return outputs.movedim(0, 1).flatten(1)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Node, Tensor, Tensor, int]:
    """A call, its input, its weight and its groups."""
    rank, groups = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    kernel, stride, dilation, size = (
        [draw(st.integers(low, high)) for _ in range(rank)]
        for low, high in ((1, 3), (1, 3), (1, 2), (5, 7))
    )
    padding = draw(st.sampled_from(["same", "valid", *itertools.product(range(3), repeat=rank)]))
    if padding == "same":
        stride = [1] * rank
    packet = CONVOLUTIONS[rank - 1]
    operator = packet.padding if isinstance(padding, str) else packet.default
    padding = padding if isinstance(padding, str) else list(padding)
    weight = normal(4 * groups, 3, *kernel)
    return (
        call(operator, stride, padding, dilation, groups),
        normal(2, 3 * groups, *size, seed=1),
        weight,
        groups,
    )


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_features_times_the_weight_are_the_convolution(
    convolution: tuple[Node, Tensor, Tensor, int],
) -> None:
    node, x, weight, groups = convolution
    operator: Any = node.target
    at, expected = positions(operator(x, weight, *node.args[2:]), 1)
    features = read_features(node, x, tuple(weight.shape[2:]), at)
    assert distance(expected, outputs_of(features, weight, groups)) <= EXACT


def test_taps_are_those_of_unfold() -> None:
    x, at = normal(2, 3, 7, 6), torch.tensor([[0, 1, 1], [2, 0, 2], [4, 1, 0]])
    node = call(torch.ops.aten.conv2d.default, [2, 1], [1, 2], [2, 1], 1)
    patches = F.unfold(x, (3, 2), dilation=(2, 1), padding=(1, 2), stride=(2, 1))
    columns = x.shape[3] + 2 * 2 - 2 + 1
    expected = torch.stack([patches[n, :, i * columns + j] for n, i, j in at.T.tolist()])
    found = read_features(node, x, (3, 2), at)
    assert torch.equal(found, expected.view(3, 3, 6).mT)  # unfold has the channels first


def test_an_image_without_a_batch() -> None:
    x, weight = normal(3, 6, 5), normal(4, 3, 3, 3)
    node = call(torch.ops.aten.conv2d.default, [1, 1], [1, 1])
    at, expected = positions(F.conv2d(x, weight, padding=1), 0)
    found = outputs_of(read_features(node, x, (3, 3), at), weight, 1)
    assert distance(expected, found) <= EXACT


def test_settings_left_out_are_those_of_the_operator() -> None:
    x, weight = normal(2, 3, 6, 5), normal(4, 3, 3, 3)
    at, expected = positions(F.conv2d(x, weight), 1)
    features = read_features(call(torch.ops.aten.conv2d.default), x, (3, 3), at)
    assert distance(expected, outputs_of(features, weight, 1)) <= EXACT


def test_a_linear_layer_on_tokens() -> None:
    x, weight = normal(2, 5, 6), normal(4, 6)
    at, expected = positions(x @ weight.T, -1)
    features = read_features(call(torch.ops.aten.linear.default), x, (), at)
    assert features.shape == (10, 1, 6)
    assert distance(expected, outputs_of(features, weight, 1)) <= EXACT


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_survivors_are_found_where_the_reduced_model_has_them(data: st.DataObject) -> None:
    output = normal(2, 4, 5, 3)
    channel = data.draw(st.integers(0, 3))
    kept = {
        dim: torch.tensor(sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1))))
        for dim, size in enumerate(output.shape)
        if data.draw(st.booleans())
    }
    reduced = output
    for dim, index in kept.items():
        reduced = reduced.index_select(dim, index)
    at, target = positions(output, channel)
    order = torch.randperm(at.shape[1])
    at, target = at[:, order], target[order]
    before = at.clone()
    new, values, left = keep_survivors(at, target, kept, channel)
    assert torch.equal(reduced.movedim(channel, -1)[tuple(new)], values)
    assert torch.equal(at, before), "the recording's positions are not ours to change"
    dims = [dim for dim in range(4) if dim != channel]
    expected = [
        all(place in kept[dim] for dim, place in zip(dims, pick, strict=True) if dim in kept)
        for pick in at.T.tolist()
    ]
    assert torch.equal(torch.arange(len(target))[left], torch.tensor(expected).nonzero()[:, 0])


def labeled(shape: tuple[int, ...], *axes: Tensor) -> Value:
    return Value(shape, torch.float32, tuple(labels.expand(shape) for labels in axes))


def test_kept_indices_by_dimension() -> None:
    keep_mask = np.array([True, True, False, True, False, True, True])
    channels, places = torch.tensor([1, 2, 3])[:, None], torch.tensor([4, 5, 0])
    kept = kept_indices(labeled((2, 3, 3), channels, places), keep_mask)
    assert kept is not None
    assert {dim: index.tolist() for dim, index in kept.items()} == {1: [0, 2], 2: [1, 2]}
    assert kept_indices(labeled((2, 3, 2), torch.tensor([1, 3, 6])[:, None]), keep_mask) == {}


@pytest.mark.parametrize(
    "value", [None, labeled((2, 2), torch.tensor([[1, 2], [3, 4]]))], ids=["unknown", "no box"]
)
def test_no_indices_where_survivors_form_no_box(value: Value | None) -> None:
    assert kept_indices(value, np.array([True, True, False, True, True])) is None


def test_groups_are_runs_of_columns() -> None:
    rows = torch.arange(2 * 3 * 8).view(2, 3, 8)
    expected = torch.stack([part.flatten(1) for part in rows.chunk(2, -1)])
    assert torch.equal(split_groups(rows, 2), expected)
