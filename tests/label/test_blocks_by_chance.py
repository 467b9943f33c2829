"""Chance may keep as many channels as another box of blocks holds; the blocks still stay."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.examination.masked import masked, tensors
from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.label.analysis import analyze_graph
from fxprune.label.keep import keep_all, keep_random
from fxprune.label.trial import conflicts
from fxprune.passes import ReduceChannels
from fxprune.plans.plan import make_plan
from tests.nets import Net


def reduced(net: nn.Module, x: Tensor, removed: dict[str, list[int]]) -> tuple[Tensor, Tensor]:
    """What a network gives with these rows of weights masked, and with them gone."""
    graph = capture(net, make_batch((x[:2],), {})).graph
    analysis = analyze_graph(graph, 2)
    keep_mask = keep_all(analysis)
    for name, rows in removed.items():
        keep_mask[analysis.axes[name, 0][rows]] = False
    assert keep_mask[0]
    small = ReduceChannels(analysis, keep_mask)(graph).graph_module
    plan = make_plan(analysis, keep_mask, tensors(graph), "by hand", {})
    with torch.no_grad():
        return masked(net, graph, small, plan)(x), small(x)


def test_two_heads_that_keep_another_channel_each() -> None:
    """The first of one head and the second of the other: either dimension could be halved."""

    def forward(net: Any, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).view(x.shape[0], 4, 2, 2).transpose(1, 2) for layer in (net.q, net.k, net.v)
        )
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        result: Tensor = net.out(mixed.transpose(1, 2).flatten(2))
        return result

    torch.manual_seed(0)
    layers = {name: nn.Linear(3, 4) for name in "qkv"}
    net = Net(forward, **layers, out=nn.Linear(4, 2)).double()
    x = torch.randn(3, 4, 3, dtype=torch.float64)
    expected, found = reduced(net, x, {"q.weight": [0, 3], "v.weight": [1, 2]})
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_blocks_that_keep_a_latin_square() -> None:
    """Three blocks lose one channel each, every time at another place."""

    def forward(net: Any, x: Tensor) -> Tensor:
        parts = net.first(x).unflatten(1, (3, 3)).unbind(1)
        result: Tensor = net.last(torch.cat(parts, 1))
        return result

    torch.manual_seed(0)
    net = Net(forward, first=nn.Linear(4, 9), last=nn.Linear(9, 2)).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    expected, found = reduced(net, x, {"first.weight": [1, 3, 8]})
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_channel_in_several_rows_does_not_make_them_its_block() -> None:
    """Two of four heads of queries share each head of keys, and so their channels."""

    def forward(net: Any, x: Tensor) -> Tensor:
        q = net.q(x).view(x.shape[0], 3, 4, 2).transpose(1, 2)
        k, v = (
            layer(x).view(x.shape[0], 3, 2, 2).transpose(1, 2).repeat_interleave(2, 1)
            for layer in (net.k, net.v)
        )
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        result: Tensor = net.out(mixed.transpose(1, 2).flatten(2))
        return result

    torch.manual_seed(0)
    layers = {"q": nn.Linear(3, 8), "k": nn.Linear(3, 4), "v": nn.Linear(3, 4)}
    net = Net(forward, **layers, out=nn.Linear(8, 2)).double()
    x = torch.randn(3, 3, 3, dtype=torch.float64)
    expected, found = reduced(net, x, {"k.weight": [0, 3]})
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def shuffled(net: Any, x: Tensor) -> Tensor:
    """Grouped, shuffled, and grouped again where there is such a layer."""
    y = torch.tanh(net.grouped(torch.tanh(net.first(x))))
    y = nn.functional.channel_shuffle(y, 2)
    result: Tensor = net.last(y)
    return result


@pytest.mark.parametrize("width", range(2, 6))
def test_shuffled_blocks_fit_whatever_they_keep(width: int) -> None:
    """Blocks that a shuffle interleaves keep the same channels, or stay: one trial does not tell,
    as by chance two blocks may keep what fits.
    """
    layers = {"first": nn.Conv1d(3, 4, 1), "grouped": nn.Conv1d(4, 2 * width, 1, groups=2)}
    net = Net(shuffled, **layers, last=nn.Conv1d(2 * width, 2, 1))
    graph = capture(net, make_batch((torch.randn(2, 3, 4),), {})).graph
    analysis = analyze_graph(graph, 2)
    assert analysis.groups
    for seed in range(12):
        mask = keep_random(analysis, np.random.default_rng(seed))
        assert not conflicts(graph, analysis, mask)


def test_rows_of_a_shuffle_do_not_go_as_a_whole() -> None:
    """Of a depthwise layer with several results per channel, all of a channel's would go, and
    nothing would say into how many rows a shuffle lays out what is left.
    """
    layers = {"first": nn.Conv1d(3, 2, 1), "grouped": nn.Conv1d(2, 8, 1, groups=2)}
    net = Net(shuffled, **layers, last=nn.Conv1d(8, 2, 1))
    analysis = analyze_graph(capture(net, make_batch((torch.randn(2, 3, 4),), {})).graph, 2)
    assert not analysis.axes["first.weight", 0].any()
