"""Rules that callers teach."""

import torch
from expecttest import assert_expected_inline

from fxprune.rules import Call, pointwise, register_rule
from fxprune.rules.registry import _RULES
from tests.blocks import conv
from tests.nets import Net
from tests.rules.golden import analyzed


def test_a_rule_can_be_taught() -> None:
    library = torch.library.Library("fxprune_test", "FRAGMENT")
    library.define("wave(Tensor x) -> Tensor")
    library.impl("wave", torch.sin, "CompositeExplicitAutograd")
    library.impl("wave", torch.empty_like, "Meta")
    net = Net(lambda s, x: s.b(torch.ops.fxprune_test.wave(s.a(x))), a=conv(3, 8), b=conv(8, 2))
    assert not analyzed(net).groups

    @register_rule("fxprune_test.wave")
    def wave(call: Call) -> object:
        return pointwise(call)

    try:
        assert_expected_inline(
            str(analyzed(net)), """a: 8 | a.weight[0] a.bias[0] -> b.weight[1]"""
        )
    finally:
        del _RULES["fxprune_test.wave"]
