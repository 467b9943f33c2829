# ruff: noqa: E501  (the golden lines are as long as they are)
"""Golden channel groups: `group: width [x blocks] | where the channels are made -> where they are read`.

`EXPECTTEST_ACCEPT=1 pytest tests/rules` rewrites the texts; read the difference before committing it.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from expecttest import assert_expected_inline
from torch import Tensor, nn

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.label.analysis import analyze_graph
from fxprune.label.groups import Analysis
from fxprune.rules import Call, pointwise, register_rule
from fxprune.rules.labels import distinct, reshaped, squash, varying
from fxprune.rules.registry import _RULES
from tests.attention_blocks import CosineAttention, FusedCosineAttention, TalkingHeads
from tests.blocks import conv
from tests.nets import Net


def analysed(net: nn.Module, *shape: int) -> Analysis:
    captured = capture(net, make_batch((torch.zeros(2, *(shape or (3, 4, 4))),), {}))
    return analyze_graph(captured.graph, 2)


def test_chain() -> None:
    net = nn.Sequential(
        conv(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6), nn.AvgPool2d(2), conv(6, 4)
    )
    assert_expected_inline(
        str(analysed(net)),
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
        str(analysed(net)),
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
        str(analysed(net)),
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
    assert_expected_inline(str(analysed(net)), """a: 5 | a.weight[0] a.bias[0] -> b.weight[1]""")


def test_depthwise() -> None:
    net = nn.Sequential(conv(3, 8), conv(8, 16, 3, groups=8), conv(16, 2))
    assert_expected_inline(
        str(analysed(net)), """0: 8 | 0.weight[0] 0.bias[0] 1.weight[0] 1.bias[0] -> 2.weight[1]"""
    )


def test_grouped() -> None:
    net = nn.Sequential(conv(3, 8), conv(8, 12, 3, groups=2), conv(12, 2))
    assert_expected_inline(
        str(analysed(net)),
        """\
0: 4 x 2 blocks | 0.weight[0] 0.bias[0] -> 1.weight[1]
1: 6 x 2 blocks | 1.weight[0] 1.bias[0] -> 2.weight[1]""",
    )


def test_channel_shuffle_ties_the_blocks() -> None:
    net = nn.Sequential(
        conv(3, 8),
        conv(8, 16, 3, groups=2),
        nn.ChannelShuffle(2),
        conv(16, 16, groups=2),
        conv(16, 2),
    )
    assert_expected_inline(
        str(analysed(net)),
        """\
0: 4 x 2 blocks | 0.weight[0] 0.bias[0] -> 1.weight[1]
1: 4 | 1.weight[0] 1.bias[0] -> 3.weight[1]
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
        str(analysed(net)),
        """\
a: 8 | a.weight[0] a.bias[0] up.weight[0] up.bias[0] -> down.weight[1] c.weight[1]
down: 4 | down.weight[0] down.bias[0] -> up.weight[1]""",
    )


def test_flatten() -> None:
    net = nn.Sequential(conv(3, 8), nn.Flatten(), nn.Linear(128, 4), nn.Linear(4, 2))
    assert_expected_inline(
        str(analysed(net)),
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
        str(analysed(net)),
        """\
a: 8 | a.weight[0] a.bias[0] -> b.weight[1]
b: 8 | b.weight[0] b.bias[0] -> c.weight[1]""",
    )


def _attend(net: Any, x: Tensor) -> Tensor:
    q, k, v = net.qkv(x).reshape(x.shape[0], 5, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    result: Tensor = net.proj(
        F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape[0], 5, 8)
    )
    return result


def test_attention_from_one_projection() -> None:
    net = Net(_attend, qkv=nn.Linear(6, 24), proj=nn.Linear(8, 6))
    assert_expected_inline(
        str(analysed(net, 5, 6)),
        """qkv: 4 x 4 blocks | qkv.weight[0] qkv.bias[0] -> proj.weight[1]""",
    )


def _grouped_query(net: Any, x: Tensor) -> Tensor:
    q, k, v = (p(x).view(x.shape[0], 5, -1, 4).transpose(1, 2) for p in (net.q, net.k, net.v))
    result: Tensor = net.proj(
        F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2)
    )
    return result


def test_grouped_queries() -> None:
    net = Net(
        _grouped_query,
        q=nn.Linear(6, 16),
        k=nn.Linear(6, 8),
        v=nn.Linear(6, 8),
        proj=nn.Linear(16, 6),
    )
    assert_expected_inline(
        str(analysed(net, 5, 6)),
        """\
q: 4 x 2 blocks | q.weight[0] q.bias[0] k.weight[0] k.bias[0] -> nothing
v: 4 x 2 blocks | v.weight[0] v.bias[0] -> proj.weight[1]""",
    )


def test_gated_halves() -> None:
    net = Net(lambda s, x: s.b(torch.mul(*s.a(x).chunk(2, 1))), a=conv(3, 12), b=conv(6, 2))
    assert_expected_inline(str(analysed(net)), """a: 6 | a.weight[0] a.bias[0] -> b.weight[1]""")


def test_gated_linear_unit() -> None:
    net = nn.Sequential(conv(3, 12), nn.GLU(1), conv(6, 2))
    assert_expected_inline(str(analysed(net)), """0: 6 | 0.weight[0] 0.bias[0] -> 2.weight[1]""")


def test_option_a_shortcut() -> None:
    net = Net(
        lambda s, x: s.c(s.b(s.a(x)) + F.pad(s.a(x), (0, 0, 0, 0, 2, 2))),
        a=conv(3, 4),
        b=conv(4, 8),
        c=conv(8, 2),
    )
    assert_expected_inline(
        str(analysed(net)),
        """\
a: 4 | a.weight[0] a.bias[0] b.weight[0] b.bias[0] -> b.weight[1] c.weight[1]
b: 4 | b.weight[0] b.bias[0] -> c.weight[1]""",
    )


def test_pixel_shuffle() -> None:
    net = nn.Sequential(conv(3, 24), nn.PixelShuffle(2), conv(6, 2))
    assert_expected_inline(str(analysed(net)), """0: 6 | 0.weight[0] 0.bias[0] -> 2.weight[1]""")


def test_one_and_three_dimensions() -> None:
    one = nn.Sequential(nn.Conv1d(3, 8, 3), nn.PReLU(8), nn.Conv1d(8, 2, 1))
    assert_expected_inline(
        str(analysed(one, 3, 9)), """0: 8 | 0.weight[0] 0.bias[0] 1.weight[0] -> 2.weight[1]"""
    )
    three = nn.Sequential(nn.Conv3d(3, 8, 1), nn.BatchNorm3d(8), nn.Conv3d(8, 2, 1))
    assert_expected_inline(
        str(analysed(three, 3, 2, 4, 4)),
        """0: 8 | 0.weight[0] 0.bias[0] 1.weight[0] 1.bias[0] 1.running_mean[0] 1.running_var[0] -> 2.weight[1]""",
    )


def test_transposed() -> None:
    net = nn.Sequential(
        nn.ConvTranspose2d(3, 8, 2, 2), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, 2), conv(6, 2)
    )
    assert_expected_inline(
        str(analysed(net)),
        """\
0: 8 | 0.weight[1] 0.bias[0] -> 2.weight[0]
2: 6 | 2.weight[1] 2.bias[0] -> 3.weight[1]""",
    )


def test_grouped_transposed() -> None:
    net = nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 12, 2, 2, groups=2), conv(12, 2))
    assert_expected_inline(
        str(analysed(net)),
        """\
0: 4 x 2 blocks | 0.weight[0] 0.bias[0] 1.weight[0] -> nothing
1: 6 x 2 blocks | 1.weight[1] 1.bias[0] -> 2.weight[1]""",
    )


def test_heads_that_talk_leave_the_values_channels_free() -> None:
    net = nn.Sequential(conv(3, 6), TalkingHeads(6, 4), conv(6, 2))
    assert_expected_inline(
        str(analysed(net)),
        """1.qkv: 4 x 4 blocks | 1.qkv.weight[0] 1.qkv.bias[0] -> 1.proj.weight[1]""",
    )


@pytest.mark.parametrize("block", [CosineAttention, FusedCosineAttention])
def test_normalised_heads_go_as_a_whole(block: type[nn.Module]) -> None:
    net = nn.Sequential(conv(3, 6), block(6, 4), conv(6, 2))
    assert_expected_inline(
        str(analysed(net)),
        """1.qkv: 3 | 1.scale[0] 1.bias[0] 1.qkv.weight[0] 1.qkv.bias[0] -> 1.proj.weight[1]""",
    )


def test_a_part_of_a_bias_that_is_replaced_goes_with_it() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        bias = net.a.bias.clone()
        bias[4:8].zero_()
        result: Tensor = net.b(F.conv2d(x, net.a.weight, bias))
        return result

    net = Net(forward, a=conv(3, 12), b=conv(12, 2))
    assert_expected_inline(str(analysed(net)), """a: 12 | a.weight[0] a.bias[0] -> b.weight[1]""")


def reasons(analysis: Analysis) -> str:
    return "\n".join(dict.fromkeys(f"{p.parameter}[{p.axis}]: {p.reason}" for p in analysis.pinned))


def test_an_unknown_operator_pins_and_says_so() -> None:
    net = Net(
        lambda s, x: s.b(torch.cumsum(s.a(x), 1)),
        a=conv(3, 8, bias=False),
        b=conv(8, 2, bias=False),
    )
    assert_expected_inline(
        reasons(analysed(net)),
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
        reasons(analysed(net)),
        """\
a.weight[0]: enters aten.linalg_matrix_exp.default, for which there is no rule (model: linalg_matrix_exp)
a.weight[1]: reads channels that stay (a: conv2d)
b.weight[0]: is the model's output (output)
b.weight[1]: reads channels that stay (b: conv2d_1)""",
    )


def test_a_recurrent_network_is_pinned() -> None:
    net = Net(
        lambda s, x: s.b(s.rnn(s.a(x))[0]),
        a=nn.Linear(6, 8, bias=False),
        rnn=nn.LSTM(8, 5, batch_first=True),
        b=nn.Linear(5, 2),
    )
    assert_expected_inline(str(analysed(net, 7, 6)), """""")


@pytest.mark.parametrize("equation", ["...c,dc->...d", "bchw,dc->bdhw", "bchw,dc,de->behw"])
def test_no_einsum_crashes(equation: str) -> None:
    net = Net(
        lambda s, x: s.b(torch.einsum(equation, *_operands(equation, s, x))),
        a=conv(3, 8),
        m=nn.Linear(8, 8),
        b=conv(8, 2),
    )
    analysed(net)


def _operands(equation: str, net: Any, x: Tensor) -> list[Tensor]:
    x, weight = net.a(x), net.m.weight
    if "..." in equation:
        return [F.pad(x, (2, 2)), weight]
    return [x, *[weight] * (equation.count(","))]


def test_computed_weights_are_pinned_or_shrink() -> None:
    net = nn.Sequential(
        conv(3, 8), torch.nn.utils.parametrizations.weight_norm(conv(8, 6)), conv(6, 2)
    )
    assert_expected_inline(
        str(analysed(net)),
        """\
0: 8 | 0.weight[0] 0.bias[0] -> 1.weight[1]
1: 6 | 1.bias[0] 1.weight[0] -> 2.weight[1]""",
    )


def test_a_rule_can_be_taught() -> None:
    library = torch.library.Library("fxprune_test", "FRAGMENT")
    library.define("wave(Tensor x) -> Tensor")
    library.impl("wave", torch.sin, "CompositeExplicitAutograd")
    library.impl("wave", torch.empty_like, "Meta")
    net = Net(lambda s, x: s.b(torch.ops.fxprune_test.wave(s.a(x))), a=conv(3, 8), b=conv(8, 2))
    assert not analysed(net).groups

    @register_rule("fxprune_test.wave")
    def wave(call: Call) -> object:
        return pointwise(call)

    try:
        assert_expected_inline(
            str(analysed(net)), """a: 8 | a.weight[0] a.bias[0] -> b.weight[1]"""
        )
    finally:
        del _RULES["fxprune_test.wave"]


@pytest.mark.parametrize(
    ("shape", "varies", "target"),
    [
        ((2, 3, 4, 5), {1}, (2, 3, 20)),
        ((2, 3, 4, 5), {2}, (2, 3, 20)),
        ((2, 3, 4, 5), {0, 3}, (6, 20)),
        ((2, 12, 1), {1}, (2, 1, 3, 4)),
        ((2, 1, 6), {2}, (12, 1, 1)),
        ((1, 1), set(), ()),
        ((0, 3), {1}, (3, 0)),
    ],
)
def test_labels_are_reshaped_as_any_tensor(
    shape: tuple[int, ...], varies: set[int], target: tuple[int, ...]
) -> None:
    thin = [size if d in varies else 1 for d, size in enumerate(shape)]
    labels = torch.arange(torch.Size(thin).numel()).view(thin).expand(shape)
    found = reshaped(labels, target)
    assert torch.equal(found, labels.reshape(target))
    assert varying(squash(found)) == varying(squash(labels.reshape(target)))


@pytest.mark.parametrize("spread", [1, 1000, 10**9])
def test_distinct_labels_ascend(spread: int) -> None:
    labels = torch.randint(1, 50, (40, 70), generator=torch.Generator().manual_seed(0)) * spread
    assert distinct(labels).tolist() == labels.unique().tolist()
