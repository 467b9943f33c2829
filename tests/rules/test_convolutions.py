# ruff: noqa: E501  (the golden lines are as long as they are)
"""Channel groups of convolutions and of what joins, splits and moves their channels.

Golden texts: `group: width [x blocks] | where the channels are made -> where they are read`.

`EXPECTTEST_ACCEPT=1 pytest tests/rules` rewrites the texts; read the difference before committing it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from expecttest import assert_expected_inline
from torch import Tensor, nn

from tests.blocks import conv
from tests.nets import Net
from tests.rules.golden import analyzed


def test_chain() -> None:
    net = nn.Sequential(
        conv(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6), nn.AvgPool2d(2), conv(6, 4)
    )
    assert_expected_inline(
        str(analyzed(net)),
        """\
0: 8 | 0.weight[0] 0.bias[0] 1.weight[0] 1.bias[0] 1.running_mean[0] 1.running_var[0] -> 3.weight[1]
3: 6 | 3.weight[0] 3.bias[0] -> 5.weight[1]""",
    )


def test_residual() -> None:
    net = Net(
        lambda s, x: s.c(s.stem(x) + s.b(s.a(s.stem(x)))),
        stem=conv(3, 8),
        a=conv(8, 5),
        b=conv(5, 8),
        c=conv(8, 2),
    )
    assert_expected_inline(
        str(analyzed(net)),
        """\
stem: 8 | stem.weight[0] stem.bias[0] b.weight[0] b.bias[0] -> a.weight[1] c.weight[1]
a: 5 | a.weight[0] a.bias[0] -> b.weight[1]""",
    )


def test_concatenation() -> None:
    net = Net(
        lambda s, x: s.c(s.norm(torch.cat([s.a(x), s.b(x)], 1))),
        a=conv(3, 4),
        b=conv(3, 6),
        norm=nn.BatchNorm2d(10),
        c=conv(10, 2),
    )
    assert_expected_inline(
        str(analyzed(net)),
        """\
a: 4 | a.weight[0] a.bias[0] norm.weight[0] norm.bias[0] norm.running_mean[0] norm.running_var[0] -> c.weight[1]
b: 6 | b.weight[0] b.bias[0] norm.weight[0] norm.bias[0] norm.running_mean[0] norm.running_var[0] -> c.weight[1]""",
    )


def test_an_empty_slice_pins_what_it_is_joined_to() -> None:
    net = Net(
        lambda s, x: s.c(torch.cat([(y := s.b(s.a(x)))[:, :, :0], y], 2)),
        a=conv(3, 5),
        b=conv(5, 4),
        c=conv(4, 2),
    )
    assert_expected_inline(str(analyzed(net)), """a: 5 | a.weight[0] a.bias[0] -> b.weight[1]""")


def test_depthwise() -> None:
    net = nn.Sequential(conv(3, 8), conv(8, 16, 3, groups=8), conv(16, 2))
    assert_expected_inline(
        str(analyzed(net)), """0: 8 | 0.weight[0] 0.bias[0] 1.weight[0] 1.bias[0] -> 2.weight[1]"""
    )


def test_grouped() -> None:
    net = nn.Sequential(conv(3, 8), conv(8, 12, 3, groups=2), conv(12, 2))
    assert_expected_inline(
        str(analyzed(net)),
        """\
0: 4 x 2 blocks | 0.weight[0] 0.bias[0] -> 1.weight[1]
1: 6 x 2 blocks | 1.weight[0] 1.bias[0] -> 2.weight[1]""",
    )


def test_channel_shuffle_ties_what_lies_alike_in_its_groups() -> None:
    net = nn.Sequential(
        conv(3, 8),
        conv(8, 16, 3, groups=2),
        nn.ChannelShuffle(2),
        conv(16, 16, groups=2),
        conv(16, 2),
    )
    assert_expected_inline(
        str(analyzed(net)),
        """\
0: 4 x 2 blocks | 0.weight[0] 0.bias[0] -> 1.weight[1]
1: 4 x 2 blocks | 1.weight[0] 1.bias[0] -> 3.weight[1]
3: 8 x 2 blocks | 3.weight[0] 3.bias[0] -> 4.weight[1]""",
    )


def test_squeeze_and_excitation() -> None:
    net = Net(
        lambda s, x: s.c(s.a(x) * s.up(s.down(s.a(x).mean((2, 3), keepdim=True)).relu()).sigmoid()),
        a=conv(3, 8),
        down=conv(8, 4),
        up=conv(4, 8),
        c=conv(8, 2),
    )
    assert_expected_inline(
        str(analyzed(net)),
        """\
a: 8 | a.weight[0] a.bias[0] up.weight[0] up.bias[0] -> down.weight[1] c.weight[1]
down: 4 | down.weight[0] down.bias[0] -> up.weight[1]""",
    )


def test_flatten() -> None:
    net = nn.Sequential(conv(3, 8), nn.Flatten(), nn.Linear(128, 4), nn.Linear(4, 2))
    assert_expected_inline(
        str(analyzed(net)),
        """\
0: 8 | 0.weight[0] 0.bias[0] -> 2.weight[1]
2: 4 | 2.weight[0] 2.bias[0] -> 3.weight[1]""",
    )


def test_siamese() -> None:
    net = Net(
        lambda s, x: s.c((s.b(s.a(x)) - s.b(s.a(x.flip(3)))).abs()),
        a=conv(3, 8),
        b=conv(8, 8),
        c=conv(8, 2),
    )
    assert_expected_inline(
        str(analyzed(net)),
        """\
a: 8 | a.weight[0] a.bias[0] -> b.weight[1]
b: 8 | b.weight[0] b.bias[0] -> c.weight[1]""",
    )


def test_gated_halves() -> None:
    net = Net(lambda s, x: s.b(torch.mul(*s.a(x).chunk(2, 1))), a=conv(3, 12), b=conv(6, 2))
    assert_expected_inline(str(analyzed(net)), """a: 6 | a.weight[0] a.bias[0] -> b.weight[1]""")


def test_gated_linear_unit() -> None:
    net = nn.Sequential(conv(3, 12), nn.GLU(1), conv(6, 2))
    assert_expected_inline(str(analyzed(net)), """0: 6 | 0.weight[0] 0.bias[0] -> 2.weight[1]""")


def test_option_a_shortcut() -> None:
    net = Net(
        lambda s, x: s.c(s.b(s.a(x)) + F.pad(s.a(x), (0, 0, 0, 0, 2, 2))),
        a=conv(3, 4),
        b=conv(4, 8),
        c=conv(8, 2),
    )
    assert_expected_inline(
        str(analyzed(net)),
        """\
a: 4 | a.weight[0] a.bias[0] b.weight[0] b.bias[0] -> b.weight[1] c.weight[1]
b: 4 | b.weight[0] b.bias[0] -> c.weight[1]""",
    )


def test_pixel_shuffle() -> None:
    net = nn.Sequential(conv(3, 24), nn.PixelShuffle(2), conv(6, 2))
    assert_expected_inline(str(analyzed(net)), """0: 6 | 0.weight[0] 0.bias[0] -> 2.weight[1]""")


def test_one_and_three_dimensions() -> None:
    one = nn.Sequential(nn.Conv1d(3, 8, 3), nn.PReLU(8), nn.Conv1d(8, 2, 1))
    assert_expected_inline(
        str(analyzed(one, 3, 9)), """0: 8 | 0.weight[0] 0.bias[0] 1.weight[0] -> 2.weight[1]"""
    )
    three = nn.Sequential(nn.Conv3d(3, 8, 1), nn.BatchNorm3d(8), nn.Conv3d(8, 2, 1))
    assert_expected_inline(
        str(analyzed(three, 3, 2, 4, 4)),
        """0: 8 | 0.weight[0] 0.bias[0] 1.weight[0] 1.bias[0] 1.running_mean[0] 1.running_var[0] -> 2.weight[1]""",
    )


def test_transposed() -> None:
    net = nn.Sequential(
        nn.ConvTranspose2d(3, 8, 2, 2), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, 2), conv(6, 2)
    )
    assert_expected_inline(
        str(analyzed(net)),
        """\
0: 8 | 0.weight[1] 0.bias[0] -> 2.weight[0]
2: 6 | 2.weight[1] 2.bias[0] -> 3.weight[1]""",
    )


def test_grouped_transposed() -> None:
    net = nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 12, 2, 2, groups=2), conv(12, 2))
    assert_expected_inline(
        str(analyzed(net)),
        """\
0: 4 x 2 blocks | 0.weight[0] 0.bias[0] 1.weight[0] -> nothing
1: 6 x 2 blocks | 1.weight[1] 1.bias[0] -> 2.weight[1]""",
    )


def test_a_part_of_a_bias_that_is_replaced_goes_with_it() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        bias = net.a.bias.clone()
        bias[4:8].zero_()
        result: Tensor = net.b(F.conv2d(x, net.a.weight, bias))
        return result

    net = Net(forward, a=conv(3, 12), b=conv(12, 2))
    assert_expected_inline(str(analyzed(net)), """a: 12 | a.weight[0] a.bias[0] -> b.weight[1]""")


def test_computed_weights_are_pinned_or_shrink() -> None:
    net = nn.Sequential(
        conv(3, 8), torch.nn.utils.parametrizations.weight_norm(conv(8, 6)), conv(6, 2)
    )
    assert_expected_inline(
        str(analyzed(net)),
        """\
0: 8 | 0.weight[0] 0.bias[0] -> 1.weight[1]
1: 6 | 1.bias[0] 1.weight[0] -> 2.weight[1]""",
    )


def test_what_is_added_to_the_input_stays_where_it_is() -> None:
    net = Net(
        lambda s, x: s.c(torch.cat([s.a(x), x], 1) + s.b(x)),
        a=conv(3, 5, bias=False),
        b=conv(3, 8, bias=False),
        c=conv(8, 2, bias=False),
    )
    found = analyzed(net)
    assert_expected_inline(str(found), """a: 5 | a.weight[0] b.weight[0] -> c.weight[1]""")
    assert found.axes["b.weight", 0][5:].tolist() == [0, 0, 0]
