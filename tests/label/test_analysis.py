"""What follows from an analysis: sizes of activations, and how many examples fit."""

import pytest
import torch
from torch import nn

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.label.analysis import activations, analyze_graph, examples_within


@pytest.mark.parametrize(
    ("limit", "each", "most", "expected"),
    [(100, 10, 50, 10), (109, 10, 50, 10), (1000, 10, 50, 50), (5, 10, 50, 1), (8, 0, 50, 8)],
)
def test_as_many_examples_as_fit(limit: float, each: float, most: int, expected: int) -> None:
    assert examples_within(limit, each, most) == expected


def test_bytes_of_what_depends_on_an_input() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    graph = capture(net, make_batch((torch.ones(4, 6, dtype=torch.float64),), {})).graph
    assert activations(graph, analyze_graph(graph, 4)) == [8 * 8, 8 * 8, 3 * 8]
