# ruff: noqa: E501  (the golden lines are as long as they are)
"""Channel groups of attention.

Golden texts: `group: width [x blocks] | where the channels are made -> where they are read`.

`EXPECTTEST_ACCEPT=1 pytest tests/rules` rewrites the texts; read the difference before committing it.
"""

from typing import Any

import pytest
import torch.nn.functional as F
from expecttest import assert_expected_inline
from torch import Tensor, nn

from tests.attention_blocks import CosineAttention, FusedCosineAttention, TalkingHeads
from tests.blocks import conv
from tests.nets import Net
from tests.rules.golden import analyzed, reasons


def _attend(net: Any, x: Tensor) -> Tensor:
    q, k, v = net.qkv(x).reshape(x.shape[0], 5, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    result: Tensor = net.proj(
        F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape[0], 5, 8)
    )
    return result


def test_attention_from_one_projection() -> None:
    net = Net(_attend, qkv=nn.Linear(6, 24), proj=nn.Linear(8, 6))
    assert_expected_inline(
        str(analyzed(net, 5, 6)),
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
        str(analyzed(net, 5, 6)),
        """\
q: 4 x 2 blocks | q.weight[0] q.bias[0] k.weight[0] k.bias[0] -> nothing
v: 4 x 2 blocks | v.weight[0] v.bias[0] -> proj.weight[1]""",
    )


def test_heads_that_talk_leave_the_values_channels_free() -> None:
    net = nn.Sequential(conv(3, 6), TalkingHeads(6, 4), conv(6, 2))
    assert_expected_inline(
        str(analyzed(net)),
        """\
0: 6 | 0.weight[0] 0.bias[0] 1.norm.weight[0] 1.norm.bias[0] 1.proj.weight[0] 1.proj.bias[0] -> 1.qkv.weight[1] 2.weight[1]
1.qkv: 4 x 4 blocks | 1.qkv.weight[0] 1.qkv.bias[0] -> 1.proj.weight[1]""",
    )


@pytest.mark.parametrize("block", [CosineAttention, FusedCosineAttention])
def test_normalized_heads_go_as_a_whole(block: type[nn.Module]) -> None:
    net = nn.Sequential(conv(3, 6), block(6, 4), conv(6, 2))
    assert_expected_inline(
        str(analyzed(net)),
        """\
0: 6 | 0.weight[0] 0.bias[0] 1.norm.weight[0] 1.norm.bias[0] 1.proj.weight[0] 1.proj.bias[0] -> 1.qkv.weight[1] 2.weight[1]
1.qkv: 3 | 1.scale[0] 1.bias[0] 1.qkv.weight[0] 1.qkv.bias[0] -> 1.proj.weight[1]""",
    )


def test_channels_for_positions_stay() -> None:
    """Attention between the channels, each of which is a position."""

    def between(s: Any, x: Tensor) -> Tensor:
        q, k, v = (part(x).transpose(1, 2) for part in (s.q, s.k, s.v))
        result: Tensor = s.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2))
        return result

    parts = {name: nn.Linear(6, 8, bias=False) for name in "qkv"}
    found = analyzed(Net(between, **parts, proj=nn.Linear(8, 6, bias=False)), 5, 6)
    assert str(found) == ""
    assert_expected_inline(
        reasons(found),
        """\
q.weight[0]: a channel axis stands where attention has positions or heads (model: scaled_dot_product_attention)
q.weight[1]: reads channels that stay (q: linear)
k.weight[0]: a channel axis stands where attention has positions or heads (model: scaled_dot_product_attention)
k.weight[1]: reads channels that stay (k: linear_1)
v.weight[0]: a channel axis stands where attention has positions or heads (model: scaled_dot_product_attention)
v.weight[1]: reads channels that stay (v: linear_2)
proj.weight[0]: is the model's output (output)
proj.weight[1]: reads channels that stay (proj: linear_3)""",
    )


def test_what_only_queries_or_keys_are_made_of_stays() -> None:
    def to_input(s: Any, x: Tensor) -> Tensor:
        result: Tensor = s.proj(F.scaled_dot_product_attention(s.q(x), x, s.v(x)))
        return result

    parts = {"q": nn.Linear(6, 6, bias=False), "v": nn.Linear(6, 8, bias=False)}
    found = analyzed(Net(to_input, **parts, proj=nn.Linear(8, 6, bias=False)), 5, 6)
    assert_expected_inline(str(found), """v: 8 | v.weight[0] -> proj.weight[1]""")
    assert_expected_inline(
        reasons(found),
        """\
q.weight[0]: contracted with a tensor that is not a weight (model: scaled_dot_product_attention)
q.weight[1]: reads channels that stay (q: linear)
v.weight[1]: reads channels that stay (v: linear_1)
proj.weight[0]: is the model's output (output)""",
    )


def test_what_is_added_to_scores_keeps_its_channels() -> None:
    def biased(s: Any, x: Tensor) -> Tensor:
        q, k, v = (part(x) for part in (s.q, s.k, s.v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=s.bias(x))
        result: Tensor = s.proj(mixed)
        return result

    parts = {name: nn.Linear(6, 8, bias=False) for name in "qkv"}
    parts |= {"bias": nn.Linear(6, 5, bias=False), "proj": nn.Linear(8, 6, bias=False)}
    found = analyzed(Net(biased, **parts), 5, 6)
    assert_expected_inline(
        str(found),
        """\
q: 8 | q.weight[0] k.weight[0] -> nothing
v: 8 | v.weight[0] -> proj.weight[1]""",
    )
    assert "bias.weight[0]: added to attention scores" in reasons(found)
