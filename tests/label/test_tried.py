"""Calls tried out on numbers: which pass a change of their operands, and that alike ones are tried
once.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxprune.label.tried as tried
from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.label.analysis import analyze_graph
from fxprune.label.tried import commutes

SIZE = 6


class Chain(nn.Module):
    """Calls on the outputs of a layer."""

    def __init__(self, calls: Callable[[Tensor], Tensor]):
        super().__init__()
        self.calls, self.first, self.last = calls, nn.Linear(5, SIZE), nn.Linear(SIZE, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.calls(self.first(x)))
        return y


def found(calls: Callable[[Tensor], Tensor], kind: str = "test") -> list[bool]:
    """Whether a scale per channel passes each call between two layers."""
    graph = capture(Chain(calls).eval(), make_batch((torch.randn(2, 4, 5),), {})).graph
    analysis = analyze_graph(graph, 2)
    scale = torch.linspace(1, 2, SIZE, dtype=torch.float64)
    between = [n for n in graph.graph.nodes if n.op == "call_function"][1:-1]
    return [
        commutes(
            call,
            analysis.values,
            dict.fromkeys((call, *call.all_input_nodes), 2),
            lambda x, dim: x * scale,
            kind,
        )
        for call in between
    ]


def test_what_treats_channels_alike_passes() -> None:
    assert found(lambda x: x.flip(1) * 3) == [True, True]
    assert found(lambda x: x.flip(2)) == [False]
    assert found(torch.tanh) == [False]


def test_calls_of_one_form_are_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    known, count = tried._try, []

    def counting(*args: object) -> bool:
        count.append(args)
        return known(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(tried, "_try", counting)
    assert found(lambda x: (x * 7 * 7) * 8, "alike") == [True] * 3
    assert len(count) == 2  # by seven, by eight
    assert found(lambda x: x * 7, "alike") == [True]
    assert len(count) == 2
    assert found(lambda x: x * 7, "other") == [True]
    assert len(count) == 3
