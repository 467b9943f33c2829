# ruff: noqa: E501  (the golden lines are as long as they are)
"""Golden reasons of what keeps its channels.

`EXPECTTEST_ACCEPT=1 pytest tests/rules` rewrites the texts; read the difference before committing it.
"""

from typing import Any

import torch
from expecttest import assert_expected_inline
from torch import nn

from tests.blocks import conv
from tests.nets import Net
from tests.rules.golden import analyzed, reasons


def test_an_unknown_operator_pins_and_says_so() -> None:
    net = Net(
        lambda s, x: s.b(torch.cumsum(s.a(x), 1)),
        a=conv(3, 8, bias=False),
        b=conv(8, 2, bias=False),
    )
    assert_expected_inline(
        reasons(analyzed(net)),
        """\
a.weight[0]: every channel takes part in a softmax, sum or ordering (model: cumsum)
a.weight[1]: reads channels that stay (a: conv2d)
b.weight[0]: is the model's output (output)
b.weight[1]: reads channels that stay (b: conv2d_1)""",
    )
    net = Net(
        lambda s, x: s.b(torch.linalg.matrix_exp(s.a(x))),
        a=conv(3, 8, bias=False),
        b=conv(8, 2, bias=False),
    )
    assert_expected_inline(
        reasons(analyzed(net)),
        """\
a.weight[0]: enters aten.linalg_matrix_exp.default, for which there is no rule (model: linalg_matrix_exp)
a.weight[1]: reads channels that stay (a: conv2d)
b.weight[0]: is the model's output (output)
b.weight[1]: reads channels that stay (b: conv2d_1)""",
    )


def test_channels_beside_a_table_of_indices_stay() -> None:
    table = torch.zeros(2, 3, 6, dtype=torch.int64)

    def picked(s: Any, x: torch.Tensor) -> Any:
        return s.b(torch.gather(s.a(x), 1, table))

    layers = {"a": nn.Linear(4, 6), "b": nn.Linear(6, 2)}
    net = Net(picked, **layers)
    assert "stands beside a table of indices (model: gather)" in reasons(analyzed(net, 5, 4))


def test_a_table_that_broadcasts_along_the_channels_lets_them_go() -> None:
    table = torch.zeros(2, 3, 1, dtype=torch.int64)

    def picked(s: Any, x: torch.Tensor) -> Any:
        return s.b(torch.take_along_dim(s.a(x), table, 1))

    def flat(s: Any, x: torch.Tensor) -> Any:
        return s.b(torch.take_along_dim(s.a(x), table).view(1, 6))

    layers = {"a": nn.Linear(4, 6), "b": nn.Linear(6, 2)}
    found = analyzed(Net(picked, **layers), 5, 4)
    assert str(found) == "a: 6 | a.weight[0] a.bias[0] -> b.weight[1]"
    assert not analyzed(Net(flat, **layers), 5, 4).groups


def test_rows_that_are_unshuffled_stay() -> None:
    def rows(s: Any, x: torch.Tensor) -> Any:
        return s.b(nn.functional.pixel_unshuffle(s.a(x), 2))

    layers = {"a": nn.Linear(4, 6), "b": nn.Linear(3, 2)}
    assert "pixel_unshuffle along the channel axis" in reasons(
        analyzed(Net(rows, **layers), 3, 6, 4)
    )


def test_a_table_that_is_computed_from_numbers_alone_is_a_constant() -> None:
    net = Net(
        lambda s, x: s.b(s.a(x)[:, torch.div(torch.arange(8), 2, rounding_mode="floor")]),
        a=conv(3, 8, bias=False),
        b=conv(8, 2, bias=False),
    )
    assert_expected_inline(
        reasons(analyzed(net)),
        """\
a.weight[0]: index along the channel axis (model: index)
a.weight[1]: reads channels that stay (a: conv2d)
b.weight[0]: is the model's output (output)
b.weight[1]: index along the channel axis (model: index)""",
    )


def test_groups_of_several_channels_are_normalized_together() -> None:
    net = nn.Sequential(conv(3, 8, bias=False), nn.GroupNorm(2, 8), conv(8, 2, bias=False))
    assert_expected_inline(
        reasons(analyzed(net)),
        """\
0.weight[1]: reads channels that stay (0: conv2d)
2.weight[0]: is the model's output (output)""",
    )
