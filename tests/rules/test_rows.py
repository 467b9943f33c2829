"""Rows that are placed by tables, transformed, measured or begun with equal numbers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.label.analysis import analyze_graph
from fxprune.label.groups import Analysis
from tests.nets import Net
from tests.rules.golden import reasons

SLOTS, CHANNELS = 5, 6
FREE = "a: 6 | a.weight[0] a.bias[0] -> b.weight[1]"
Between = Callable[[Any, Tensor], Tensor]


def net(between: Between) -> Net:
    """A linear layer `a`, something on rows (N, 5, 6), and a linear layer `b`."""
    torch.manual_seed(0)
    made = Net(
        lambda s, x: s.b(between(s, s.a(x))), a=nn.Linear(4, CHANNELS), b=nn.Linear(CHANNELS, 3)
    )
    made.register_buffer("table", torch.tensor([3, 0, 1, 1, 4]))
    return made.double()


def rows(count: int) -> Tensor:
    draw = torch.Generator().manual_seed(count)
    return torch.randn(count, SLOTS, 4, generator=draw, dtype=torch.float64)


def analyzed(made: Net) -> Analysis:
    return analyze_graph(capture(made, make_batch((rows(2),), {})).graph, 2)


def wide(s: Any, x: Tensor) -> Tensor:
    """A table of places as wide as the rows."""
    table: Tensor = s.table[None, :, None].expand(x.shape[0], -1, x.shape[2])
    return table


def looped(s: Any, x: Tensor) -> Tensor:
    """A state that begins with zeros, of a width of its own."""
    state = x.new_zeros(x.shape[0], CHANNELS)
    for step in x.unbind(1):
        state = torch.tanh(state + step)
    return state


def filtered(s: Any, x: Tensor) -> Tensor:
    """A filter along the slots, in the frequencies."""
    frequencies = torch.fft.rfft(x, dim=1)
    result: Tensor = torch.fft.irfft(frequencies * frequencies.abs(), n=SLOTS, dim=1)
    return result


FREE_ROWS: dict[str, Between] = {
    "index_add": lambda s, x: torch.zeros_like(x).index_add(1, s.table, x),
    "index_copy": lambda s, x: x.index_copy(1, s.table[:2], x[:, 2:4]),
    "index_fill": lambda s, x: x.index_fill(1, s.table[:2], 0.5),
    "scatter_add": lambda s, x: torch.zeros_like(x).scatter_add(1, wide(s, x), x),
    "scatter_reduce": lambda s, x: x.scatter_reduce(1, wide(s, x), x, "amax"),
    "gather": lambda s, x: x.gather(1, wide(s, x)),
    "into numbers": lambda s, x: x.new_ones(x.shape[0], 2, CHANNELS).index_add(
        1, s.table[1:3], x[:, :2]
    ),
    "state of zeros": looped,
    "ones": lambda s, x: torch.cat([torch.ones(x.shape[0], 2, CHANNELS).to(x), x], 1),
    "fft": filtered,
    "complex": lambda s, x: torch.view_as_complex(torch.stack([x, x.sin()], -1)).imag * x,
    "view_as_real": lambda s, x: torch.view_as_real(torch.fft.fft(x, dim=1)).sum(-1),
    "hstack": lambda s, x: torch.hstack([x, x.relu()]),
    "rsub": lambda s, x: 1 - torch.fliplr(x),
    "tril": lambda s, x: (x.mT.unsqueeze(-1) * x.mT.unsqueeze(-2)).tril().sum(-1).mT,
    "table of their own": lambda s, x: x.scatter_add(1, (x * 2).long().abs() % SLOTS, x),
    "std_mean": lambda s, x: torch.std_mean(x, dim=1)[0],
    "cummax": lambda s, x: x.cummax(1)[0],
}


@pytest.mark.parametrize("case", list(FREE_ROWS))
def test_channels_of_rows_are_free(case: str) -> None:
    made = net(FREE_ROWS[case]).eval()
    assert str(analyzed(made)) == FREE
    small: Any = fxprune.compress(
        made, rows(24), flops=0.6, method="uniform", decision="close", round_to=1, progress=False
    )
    assert small.a.weight.shape[0] < CHANNELS
    with torch.no_grad():
        for count in (1, 3):
            torch.testing.assert_close(small(rows(count)), fxprune.masked(made, small)(rows(count)))


@pytest.mark.parametrize(
    ("between", "why"),
    [
        (lambda s, x: x.index_add(2, s.table, x[..., :SLOTS]), "placed by a table"),
        (lambda s, x: x.index_fill(2, s.table, 0.0), "placed by a table"),
        (
            lambda s, x: x.scatter(2, s.table[None, None].expand(x.shape[0], SLOTS, -1), 1.0),
            "placed by a table",
        ),
        (lambda s, x: torch.fft.fft(x).real, "Fourier"),
        (lambda s, x: x.tril(), "lies in a triangle"),
        (lambda s, x: torch.cdist(x, x, p=0.0) @ x, "a distance is taken along it"),
    ],
)
def test_channels_that_a_table_or_transform_meets_stay(between: Between, why: str) -> None:
    assert why in str(reasons(analyzed(net(between).eval())))


def test_channels_that_a_distance_sums_over_are_free() -> None:
    made = net(lambda s, x: torch.cdist(x, x).softmax(-1) @ x).eval()
    found = analyzed(made)
    assert str(found) == FREE
    assert found.normalized, "something is summed over them"
