"""Golden groups around products of two tensors, and what passes or stays beside them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from expecttest import assert_expected_inline
from torch import Tensor, nn

import fxprune
from tests.nets import Net
from tests.rules.golden import analyzed, reasons


def attention(s: Any, x: Tensor) -> Any:
    """One head, without a reshape."""
    scores = s.q(x) @ s.k(x).transpose(-1, -2)
    return s.out(torch.softmax(scores, -1) @ s.v(x))


def single_head() -> Net:
    torch.manual_seed(0)
    layers = {name: nn.Linear(6, 8) for name in "qkv"}
    return Net(attention, **layers, out=nn.Linear(8, 3)).double()


def test_what_a_layer_made_is_no_weight_that_reads_the_other_factor() -> None:
    assert_expected_inline(
        str(analyzed(single_head().float(), 5, 6)),
        """\
q: 8 | q.weight[0] q.bias[0] k.weight[0] k.bias[0] -> nothing
v: 8 | v.weight[0] v.bias[0] -> out.weight[1]""",
    )


def test_attention_with_one_head_is_compressed() -> None:
    net, x = single_head(), torch.randn(64, 5, 6, dtype=torch.float64)
    small = fxprune.compress(net, x, flops=0.7, decision="close", progress=False)
    rows = {row.name: row.after for row in fxprune.report(small).groups}
    assert rows["q"] < 8
    torch.testing.assert_close(fxprune.masked(net, small)(x), small(x))


def test_a_product_over_nothing_stays() -> None:
    class Empty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)
            self.left = nn.Parameter(torch.zeros(2, 0))
            self.right = nn.Parameter(torch.zeros(0, 5))

        def forward(self, x: Tensor) -> Any:
            return self.b(torch.addmm(self.a(x), self.left, self.right))

    analysis = analyzed(Empty(), 4)
    assert not analysis.groups
    assert "enters aten.addmm.default" in reasons(analysis)


LIKE: dict[str, Callable[[Any, Tensor], Any]] = {
    "expand_as": lambda s, x: s.b(s.a(x)[:, :1].expand_as(s.c(x))),
    "view_as": lambda s, x: s.b((s.a(x) + 1).view_as(s.c(x))),
}


@pytest.mark.parametrize("name", LIKE)
def test_a_tensor_that_only_gives_its_shape_keeps_no_channels(name: str) -> None:
    layers = {"a": nn.Linear(4, 6), "c": nn.Linear(4, 6), "b": nn.Linear(6, 2)}
    analysis = analyzed(Net(LIKE[name], **layers), 4)
    expected = {
        "expand_as": "a: 5 | a.weight[0] a.bias[0] -> nothing\n"
        "c: 6 | c.weight[0] c.bias[0] -> nothing",
        "view_as": "a: 6 | a.weight[0] a.bias[0] -> b.weight[1]",
    }
    assert str(analysis) == expected[name]


def test_several_tensors_at_once_stay() -> None:
    def both(s: Any, x: Tensor) -> Any:
        first, second = torch.atleast_2d([s.a(x), s.b(x)])
        return s.c(first + second)

    layers = {"a": nn.Linear(4, 6), "b": nn.Linear(4, 6), "c": nn.Linear(6, 2)}
    analysis = analyzed(Net(both, **layers), 4)
    assert not analysis.groups
    assert "enters aten.atleast_2d" in reasons(analysis)


def test_statistics_of_a_norm_have_the_channels_that_they_are_of() -> None:
    def normed(s: Any, x: Tensor) -> Any:
        y, mean, _ = torch.native_layer_norm(s.a(x).transpose(1, 2), [5], None, None, 1e-5)
        return s.b((y + mean).transpose(1, 2))

    net = Net(normed, a=nn.Linear(4, 6), b=nn.Linear(6, 2))
    assert str(analyzed(net, 5, 4)) == "a: 6 | a.weight[0] a.bias[0] -> b.weight[1]"


KERNELS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "relu": (torch.relu, True),
    "scaled and turned": (lambda q: q * 0.3 * torch.tensor([[1.0], [2], [3], [4], [5]]), True),
    "cos": (torch.cos, False),
    "elu + 1": (lambda q: nn.functional.elu(q) + 1, False),
    "centered": (lambda q: q - q.mean(-1, keepdim=True), False),
    "spread over positions": (lambda q: torch.softmax(q, 1), False),
}
PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "matmul": lambda q, k: q @ k.transpose(-1, -2),
    "heads": lambda q, k: (
        q.unflatten(-1, (2, 4)).transpose(1, 2) @ k.unflatten(-1, (2, 4)).permute(0, 2, 3, 1)
    ),
    "einsum": lambda q, k: torch.einsum("bic,bjc->bij", q, k),
    "fused": lambda q, k: nn.functional.scaled_dot_product_attention(
        q.unsqueeze(1), k.unsqueeze(1), torch.arange(50.0).view(2, 1, 5, 5)
    ),
}


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_what_a_product_of_activations_sums_over_vanishes_with_its_weights(
    kernel: str, product: str
) -> None:
    bend, vanishes = KERNELS[kernel]
    layers = {"q": nn.Linear(6, 8), "k": nn.Linear(6, 8), "out": nn.Linear(5, 2)}

    def scores(s: Any, x: Tensor) -> Any:
        return s.out(PRODUCTS[product](bend(s.q(x)), bend(s.k(x))))

    analysis = analyzed(Net(scores, **layers), 5, 6)
    assert bool(analysis.groups) == vanishes
    if not vanishes:
        assert "does not vanish with its weights" in reasons(analysis)


def test_one_factor_that_vanishes_is_enough() -> None:
    layers = {"q": nn.Linear(6, 8), "k": nn.Linear(6, 8), "out": nn.Linear(5, 2)}

    def scores(s: Any, x: Tensor) -> Any:
        return s.out(torch.cos(s.q(x)) @ s.k(x).transpose(-1, -2))

    assert analyzed(Net(scores, **layers), 5, 6).groups


def test_shuffled_groups_of_channels_stay_alike() -> None:
    def shuffled(s: Any, x: Tensor) -> Any:
        return s.b(nn.functional.channel_shuffle(s.a(x), 2))

    layers = {"a": nn.Conv2d(3, 8, 1), "b": nn.Conv2d(8, 2, 1)}
    analysis = analyzed(Net(shuffled, **layers))
    (group,) = analysis.groups
    assert group.width == 4
    # Channel 1 and channel 5 are one.
    made = analysis.axes["a.weight", 0]
    assert made[:4].tolist() == made[4:].tolist()
