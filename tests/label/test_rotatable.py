"""Which channel groups may be mixed, and why others may not."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.label.analysis import analyze_graph
from fxprune.label.groups import Analysis
from fxprune.label.rotatable import mark_rotatable
from tests.nets import Net
from tests.rotations import NETS, examples


def marked(net: nn.Module, x: Tensor) -> Analysis:
    graph = capture(net.eval(), make_batch((x[:2],), {})).graph
    return mark_rotatable(graph, analyze_graph(graph, 2))


@pytest.mark.parametrize(
    ("make", "rotatable"),
    list(
        zip(
            NETS,
            (
                ("q", "v"),
                ("qkv", "qkv#2"),
                ("q", "v"),
                ("layer.self_attn",),
                ("first",),
                ("0", "1"),
            ),
            strict=True,
        )
    ),
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_channels_between_linear_maps_may_be_mixed(make: Any, rotatable: tuple[str, ...]) -> None:
    analysis = marked(make(), examples(make, 2).float())
    assert analysis.rotatable == rotatable
    assert {*analysis.rotatable, *analysis.unmixed} == {g.name for g in analysis.groups}


def test_the_text_says_which() -> None:
    analysis = marked(NETS[-2](), examples(NETS[-2], 2).float())
    assert str(analysis).splitlines() == [
        "first: 12 rotatable | first.weight[0] first.bias[0] -> second.weight[1]",
        "second: 10 | second.weight[0] second.bias[0] -> head.weight[1]",
    ]


class Stretched(nn.Module):
    """Channels, each with a factor of its own."""

    def __init__(self, channels: int):
        super().__init__()
        self.factor = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Shifted(nn.Module):
    """Odd channels lie a row lower."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, ::2], x[:, 1::2].roll(1, 2)], 2).flatten(1, 2)


class Called(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Any):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.function(x)
        return result


NOT_MIXED = {
    "relu": (nn.ReLU(), "aten.relu is not known to be linear"),
    "batch norm": (nn.BatchNorm2d(8), "aten.batch_norm is not known to be linear"),
    "depthwise": (nn.Conv2d(8, 8, 3, padding=1, groups=8), "does not treat channels alike"),
    "factors": (Stretched(8), "aten.mul does not treat channels alike"),
    "its own square": (Called(lambda x: x * x), "aten.mul does not treat channels alike"),
    "a clamp that is never reached": (Called(lambda x: x.clamp(-1e9, 1e9)), "aten.clamp is not"),
    "a sum with a number": (Called(lambda x: x + 1.0), "aten.add does not treat channels alike"),
    "half of the channels": (
        Called(lambda x: torch.cat([x[:, :4] + x[:, :4], x[:, 4:]], 1)),
        "takes a part of the channels of a block",
    ),
    "largest pixels": (nn.MaxPool2d(2), "is not known to be linear"),
    "two channels at once": (
        Called(lambda x: torch.cat([x[:, :4].roll(1, 2), x[:, 4:]], 1)),
        "takes a part of the channels of a block",
    ),
}


@pytest.mark.parametrize("name", NOT_MIXED)
def test_what_treats_channels_apart_is_found_and_named(name: str) -> None:
    inner, reason = NOT_MIXED[name]
    net = nn.Sequential(nn.Conv2d(3, 8, 1), inner, nn.Conv2d(8, 4, 1))
    analysis = marked(net, torch.randn(2, 3, 8, 8))
    assert analysis.rotatable == ()
    assert reason in analysis.unmixed["0"]


LINEAR = {
    "mean of pixels": Called(lambda x: x.mean((2, 3), keepdim=True)),
    "upsampling": nn.Upsample(scale_factor=2, mode="bilinear"),
    "weights of pixels": Called(lambda x: x * x.new_tensor([0.5, 2.0] * 4)[None, None, None]),
    "a doubled branch": Called(lambda x: x + x.flip(2) / 3),
    "margins": nn.ZeroPad2d(1),
    "transposed": nn.ConvTranspose2d(8, 8, 2, stride=2),
    "dropout": nn.Dropout(0.5),
}


@pytest.mark.parametrize("name", LINEAR)
def test_what_treats_channels_alike_may_stand_between(name: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), LINEAR[name], nn.Conv2d(8, 4, 1))
    assert "0" in marked(net, torch.randn(2, 3, 8, 8)).rotatable


def _rotary(net: Any, x: Tensor) -> Tensor:
    def turned(part: Tensor) -> Tensor:
        first, second = part.chunk(2, -1)
        angle = torch.arange(part.shape[-2], dtype=part.dtype)[:, None] * net.speed
        return torch.cat(
            [
                first * angle.cos() - second * angle.sin(),
                second * angle.cos() + first * angle.sin(),
            ],
            -1,
        )

    q, k, v = (p(x).view(x.shape[0], 6, 2, 8).transpose(1, 2) for p in (net.q, net.k, net.v))
    mixed = F.scaled_dot_product_attention(turned(q), turned(k), v)
    result: Tensor = net.out(mixed.transpose(1, 2).flatten(2))
    return result


def test_rotary_queries_and_keys_are_selected_and_their_values_mixed() -> None:
    q, k, v, out = (nn.Linear(16, 16) for _ in range(4))
    net = Net(_rotary, q=q, k=k, v=v, out=out)
    net.register_buffer("speed", torch.tensor([1.0, 0.3, 0.1, 0.03]))
    analysis = marked(net, torch.randn(2, 6, 16))
    assert analysis.rotatable == ("v",)
    assert set(analysis.unmixed) == {"q"}


def test_sides_of_a_product_are_those_of_queries_and_keys() -> None:
    analysis = marked(NETS[2](), examples(NETS[2], 2).float())
    assert set(analysis.sides) == {("k.weight", 0), ("k.bias", 0)}
    assert all((side == 1).all() for side in analysis.sides.values())


def test_keys_that_are_their_own_queries_are_not_mixed() -> None:
    def attend(net: Any, x: Tensor) -> Tensor:
        q, v = net.q(x), net.v(x)
        return net.out((q @ q.transpose(-1, -2)).softmax(-1) @ v)  # type: ignore[no-any-return]

    net = Net(attend, q=nn.Linear(16, 8), v=nn.Linear(16, 8), out=nn.Linear(8, 16))
    analysis = marked(net, torch.randn(2, 6, 16))
    assert analysis.rotatable == ("v",)
    assert "told apart" in analysis.unmixed["q"]
