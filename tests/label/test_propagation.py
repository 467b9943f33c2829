"""Labels run through the graph: what carries none goes its own way."""

import torch
from expecttest import assert_expected_inline
from torch import nn

from tests.blocks import conv
from tests.nets import Net
from tests.rules.golden import analyzed


def test_tables_of_positions_leave_channels_free() -> None:
    net = Net(lambda s, x: s.b(s.a(x)[:, :, s.table]), a=conv(3, 6), b=conv(6, 2))
    net.register_buffer("table", torch.tensor([0, 2, 1]))
    assert_expected_inline(str(analyzed(net)), """a: 6 | a.weight[0] a.bias[0] -> b.weight[1]""")


def test_a_normalization_of_each_channel_alone_leaves_them_free() -> None:
    net = nn.Sequential(conv(3, 8), nn.GroupNorm(8, 8), conv(8, 2))
    assert_expected_inline(
        str(analyzed(net)), """0: 8 | 0.weight[0] 0.bias[0] 1.weight[0] 1.bias[0] -> 2.weight[1]"""
    )


def test_inputs_may_be_joined_before_any_weight() -> None:
    net = Net(lambda s, x: s.b(s.a(torch.cat([x, x], 1))), a=conv(6, 5), b=conv(5, 2))
    assert str(analyzed(net)) == "a: 5 | a.weight[0] a.bias[0] -> b.weight[1]"


def test_channels_along_two_dimensions_go_each_for_itself() -> None:
    net = Net(
        lambda s, x: s.b(s.d(s.c(s.a(x)).relu())),
        a=conv(3, 6, bias=False),
        c=nn.Linear(4, 5, bias=False),
        d=nn.Linear(5, 4, bias=False),
        b=conv(6, 2, bias=False),
    )
    assert_expected_inline(
        str(analyzed(net)),
        """\
a: 6 | a.weight[0] -> b.weight[1]
c: 5 | c.weight[0] -> d.weight[1]""",
    )
