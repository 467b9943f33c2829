# ruff: noqa: E501  (the golden lines are as long as they are)
"""Channel groups of what is joined, stacked, padded and gated while its channels are folded up.

`EXPECTTEST_ACCEPT=1 pytest tests/rules` rewrites the texts; read the difference before committing it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from expecttest import assert_expected_inline
from torch import Tensor, nn

from tests.blocks import conv
from tests.nets import Net
from tests.rules.golden import analyzed, reasons


def two(join: Any, inputs: int, outputs: int = 6) -> Net:
    """Two linear layers `a` and `b`, joined, and a linear layer `c`."""
    layers = {"a": nn.Linear(5, outputs), "b": nn.Linear(5, outputs), "c": nn.Linear(inputs, 2)}
    return Net(lambda s, x: s.c(join(s.a(x), s.b(x))), **layers)


def test_channels_that_are_folded_up_are_joined_row_by_row() -> None:
    def rows(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a.view(-1, 2, 3), b.view(-1, 2, 3)], 1).flatten(1)

    found = analyzed(two(rows, 12), 5)
    assert_expected_inline(
        str(found),
        """a: 3 x 4 blocks | a.weight[0] a.bias[0] b.weight[0] b.bias[0] -> c.weight[1]""",
    )
    first, second = found.axes["a.weight", 0], found.axes["b.weight", 0]
    assert found.axes["c.weight", 1].tolist() == [*first.tolist(), *second.tolist()]


def test_channels_that_are_folded_up_are_joined_column_by_column() -> None:
    def columns(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a.view(-1, 2, 3), b.view(-1, 2, 3)], 2).flatten(1)

    found = analyzed(two(columns, 12), 5)
    assert_expected_inline(
        str(found),
        """a: 3 | a.weight[0] a.bias[0] b.weight[0] b.bias[0] -> c.weight[1]""",
    )
    a, b = (found.axes[f"{name}.weight", 0].tolist() for name in "ab")
    assert found.axes["c.weight", 1].tolist() == [*a[:3], *b[:3], *a[3:], *b[3:]]


def test_what_is_joined_along_positions_goes_together() -> None:
    def positions(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b], 1)

    assert_expected_inline(
        str(analyzed(two(positions, 6), 4, 5)),
        """a: 6 | a.weight[0] a.bias[0] b.weight[0] b.bias[0] -> c.weight[1]""",
    )
    beside = Net(lambda s, x: s.c(torch.cat([s.a(x), x], 1)), a=nn.Linear(5, 5), c=nn.Linear(5, 2))
    found = analyzed(beside, 4, 5)
    assert str(found) == ""
    assert "a.weight[0]: joined to a tensor that is not produced by a weight" in reasons(found)


def test_what_is_stacked_keeps_its_channels_apart() -> None:
    found = analyzed(two(lambda a, b: torch.stack([a, b], 1).flatten(1), 12), 5)
    assert_expected_inline(
        str(found),
        """a: 6 x 2 blocks | a.weight[0] a.bias[0] b.weight[0] b.bias[0] -> c.weight[1]""",
    )
    a, b = (found.axes[f"{name}.weight", 0].tolist() for name in "ab")
    assert found.axes["c.weight", 1].tolist() == [*a, *b]
    found = analyzed(two(lambda a, b: torch.stack([a, b], -1).flatten(1), 12), 5)
    a, b = (found.axes[f"{name}.weight", 0].tolist() for name in "ab")
    pairs = zip(a, b, strict=True)
    assert found.axes["c.weight", 1].tolist() == [label for pair in pairs for label in pair]


def test_padding_makes_channels_that_nobody_else_has() -> None:
    net = Net(lambda s, x: s.b(F.pad(s.a(x), (1, 2, 0, 0, 2, 1))), a=conv(3, 6), b=conv(9, 2))
    found = analyzed(net)
    assert_expected_inline(
        str(found),
        """\
a: 6 | a.weight[0] a.bias[0] -> b.weight[1]
b: 3 | b.weight[1] -> b.weight[1]""",
    )
    made, read = found.axes["a.weight", 0], found.axes["b.weight", 1]
    assert read[2:8].tolist() == made.tolist()
    assert len(set(read.tolist())) == 9


def test_padding_that_repeats_keeps_channels() -> None:
    net = Net(
        lambda s, x: s.b(F.pad(s.a(x), (0, 0, 0, 0, 1, 1), "reflect")), a=conv(3, 6), b=conv(8, 2)
    )
    assert str(analyzed(net, 3, 4, 4)) == ""
