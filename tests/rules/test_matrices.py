# ruff: noqa: E501  (the golden lines are as long as they are)
"""Channel groups of products of matrices with weights on either side.

`EXPECTTEST_ACCEPT=1 pytest tests/rules` rewrites the texts; read the difference before committing it.
"""

from typing import Any

import torch
from expecttest import assert_expected_inline
from torch import nn

from tests.blocks import conv
from tests.nets import Net
from tests.rules.golden import analyzed, reasons


def net(forward: Any, *layers: nn.Module, **weights: tuple[int, ...]) -> Net:
    """Layers `a` and `b`, and parameters of these shapes."""
    made = Net(forward, **dict(zip("ab", layers, strict=False)))
    for name, shape in weights.items():
        made.register_parameter(name, nn.Parameter(torch.ones(shape)))
    return made


def test_what_a_product_leaves_alone_passes() -> None:
    found = analyzed(net(lambda s, x: s.b(s.a(x) @ s.w), conv(3, 6), conv(6, 2), w=(4, 5)))
    assert_expected_inline(str(found), """a: 6 | a.weight[0] a.bias[0] -> b.weight[1]""")
    found = analyzed(net(lambda s, x: s.b(s.w @ s.a(x)), conv(3, 6), conv(6, 2), w=(5, 4)))
    assert_expected_inline(str(found), """a: 6 | a.weight[0] a.bias[0] -> b.weight[1]""")


def test_a_weight_on_either_side_reads_and_makes() -> None:
    made = net(lambda s, x: torch.relu(x @ s.v) @ s.w, v=(6, 8), w=(8, 3))
    assert_expected_inline(str(analyzed(made, 5, 6)), """v: 8 | v[1] -> w[0]""")
    made = net(lambda s, x: s.w @ torch.relu(s.v @ x), v=(8, 6), w=(3, 8))
    assert_expected_inline(str(analyzed(made, 6, 5)), """v: 8 | v[0] -> w[1]""")


def test_a_weight_may_be_turned_before_it_is_read() -> None:
    made = net(lambda s, x: torch.relu(x @ s.v.T) @ s.w.mT, v=(8, 6), w=(3, 8))
    found = analyzed(made, 5, 6)
    assert str(found) == "v: 8 | v[0] -> w[1]"
    assert found.foldable == {("w", 1)}
    made = net(lambda s, x: torch.relu(x @ s.v.T) @ s.w.T + s.w.T.sum(), v=(8, 6), w=(3, 8))
    assert ("w", 1) not in analyzed(made, 5, 6).foldable


def test_a_weight_per_head_reads_within_its_head() -> None:
    made = net(lambda s, x: torch.relu(x @ s.v) @ s.w, v=(3, 6, 8), w=(3, 8, 2))
    found = analyzed(made, 3, 5, 6)
    assert_expected_inline(str(found), """v: 8 | v[2] -> w[1]""")
    assert_expected_inline(
        reasons(found),
        """\
v[0]: meets a tensor that is not produced by a weight (model: matmul)
v[1]: contracted with a tensor that is not a weight (model: matmul)
w[0]: meets a tensor that is not produced by a weight (model: matmul)
w[2]: is the model's output (output)""",
    )


def test_products_with_vectors_keep_their_channels() -> None:
    found = analyzed(net(lambda s, x: torch.relu(x @ s.v) @ s.w, v=(6, 8), w=(8,)), 5, 6)
    assert str(found) == ""
    assert_expected_inline(
        reasons(found),
        """\
v[0]: contracted with a tensor that is not a weight (model: matmul)
v[1]: product with a vector (model: matmul_1)
w[0]: product with a vector (model: matmul_1)""",
    )


def test_a_bias_that_is_added_beside_the_product_goes_with_it() -> None:
    made = net(
        lambda s, x: torch.addmm(s.c, torch.relu(torch.addmm(s.b, x, s.v)), s.w),
        v=(6, 8),
        w=(8, 3),
        b=(8,),
        c=(3,),
    )
    assert_expected_inline(str(analyzed(made, 6)), """v: 8 | v[1] b[0] -> w[0]""")


def test_what_two_activations_are_contracted_along_goes_together() -> None:
    made = net(
        lambda s, x: s.b((s.a(x) @ (x @ s.k).mT).relu() @ (x @ s.v)),
        nn.Linear(6, 8),
        nn.Linear(7, 2),
        k=(6, 8),
        v=(6, 7),
    )
    assert_expected_inline(
        str(analyzed(made, 5, 6)),
        """\
a: 8 | k[1] a.weight[0] a.bias[0] -> nothing
v: 7 | v[1] -> b.weight[1]""",
    )
