# ruff: noqa: E501  (the golden lines are as long as they are)
"""Rows, ranges and tables that pick parts of a tensor: along channels they pin, elsewhere they pass.

`EXPECTTEST_ACCEPT=1 pytest tests/rules` rewrites the texts; read the difference before committing it.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from expecttest import assert_expected_inline
from torch import nn

from tests.blocks import conv
from tests.nets import Net
from tests.rules.golden import analyzed, reasons

FREE = "a: 6 | a.weight[0] a.bias[0] -> b.weight[1]"


def net(between: Callable[[Any, Any], Any], bias: bool = True) -> Net:
    """A convolution `a`, something on (N, 6, 4, 4), and a convolution `b`."""
    made = Net(
        lambda s, x: s.b(between(s, s.a(x))), a=conv(3, 6, bias=bias), b=conv(6, 2, bias=bias)
    )
    made.register_buffer("table", torch.tensor([3, 0, 1]))
    return made


@pytest.mark.parametrize(
    "pick",
    [
        lambda s, x: x.index_select(2, s.table),
        lambda s, x: x.index_select(-1, s.table),
        lambda s, x: x[:, :, s.table],
        lambda s, x: x[..., s.table, :],
        lambda s, x: x.roll(1, 2),
        lambda s, x: x.roll((1, 2), (-1, 2)),
        lambda s, x: x[:, :, ::2],
        lambda s, x: x.unfold(3, 2, 1)[..., 0],
        lambda s, x: x.flip(3),
    ],
)
def test_positions_leave_channels_free(pick: Callable[[Any, Any], Any]) -> None:
    assert str(analyzed(net(pick))) == FREE


@pytest.mark.parametrize(
    ("pick", "why"),
    [
        (lambda s, x: torch.cat([x.index_select(1, s.table)] * 2, 1), "index_select"),
        (lambda s, x: torch.cat([x.index_select(-3, s.table)] * 2, 1), "index_select"),
        (lambda s, x: torch.cat([x[:, s.table]] * 2, 1), "index"),
        (lambda s, x: x.roll(1, 1), "roll"),
        (lambda s, x: x.roll((1, 1), (2, -3)), "roll"),
        (lambda s, x: x.roll(1), "roll"),
        (lambda s, x: torch.cat([x[:, ::2]] * 2, 1), "slice"),
        (lambda s, x: x.unfold(1, 6, 1).squeeze(1).movedim(-1, 1), "unfold"),
    ],
)
def test_order_along_channels_keeps_them(pick: Callable[[Any, Any], Any], why: str) -> None:
    analysis = analyzed(net(pick, bias=False))
    assert str(analysis) == ""
    assert reasons(analysis).startswith(f"a.weight[0]: {why} along the channel axis (model: {why}")


def test_a_computed_table_keeps_the_channels_that_it_picks() -> None:
    analysis = analyzed(net(lambda s, x: x.gather(1, x.long().clamp(0, 5)), bias=False))
    assert str(analysis) == ""
    assert "a.weight[0]: indexed by a computed tensor (model: gather)" in reasons(analysis)


def test_rows_of_a_table_stay_and_its_columns_may_go() -> None:
    made = Net(lambda s, x: s.b(s.a(x.long())), a=nn.Embedding(7, 5), b=nn.Linear(5, 2))
    found = analyzed(made, 4)
    assert_expected_inline(str(found), """a: 5 | a.weight[1] -> b.weight[1]""")
    assert_expected_inline(
        reasons(found),
        """\
a.weight[0]: rows of an embedding table (a: embedding)
b.weight[0]: is the model's output (output)
b.bias[0]: is the model's output (output)""",
    )


def test_a_part_that_is_replaced_meets_what_stood_there() -> None:
    def replaced(s: Any, x: Any) -> Any:
        return torch.slice_scatter(s.a(x), s.c(x), 1, 2, -1)

    made = Net(
        lambda s, x: s.b(replaced(s, x)),
        a=conv(3, 6, bias=False),
        c=conv(3, 3, bias=False),
        b=conv(6, 2, bias=False),
    )
    assert_expected_inline(
        str(analyzed(made)),
        """\
a: 3 | a.weight[0] -> b.weight[1]
a#2: 3 | a.weight[0] c.weight[0] -> b.weight[1]""",
    )
