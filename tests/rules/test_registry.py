"""Rules that callers teach."""

import pytest
import torch
from expecttest import assert_expected_inline

from fxprune.rules import Call, pointwise, register_rule, rule_for
from fxprune.rules.registry import _RULES, load_entry_points
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


class Entry:
    """What an installed package names in the entry point group: a module that registers a rule."""

    def load(self) -> None:
        register_rule("aten.linalg_matrix_exp")(pointwise)


def test_rules_of_installed_packages_are_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def entries(group: str) -> list[Entry]:
        asked.append(group)
        return [Entry()]

    monkeypatch.setattr("fxprune.rules.registry.entry_points", entries)
    monkeypatch.setattr("fxprune.rules.registry._RULES", dict(_RULES))
    load_entry_points.cache_clear()
    try:
        for _ in range(2):
            assert rule_for(torch.ops.aten.linalg_matrix_exp.default) is pointwise
        assert asked == ["fxprune.rules"]
    finally:
        load_entry_points.cache_clear()
