"""Calls become the layers that they were: every setting comes back, and what is no layer stays."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.passes import LiftModules


def lifted(net: nn.Module, *args: Tensor) -> nn.Module:
    """The captured graph with its layers back; it gives what the net gives."""
    graph = capture(net.eval(), make_batch(args, {})).graph
    small: nn.Module = LiftModules()(graph).graph_module
    assert torch.equal(small(*args), net(*args))
    return small


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(6, 4, 3, stride=2, padding=1, dilation=2, groups=2), (2, 6, 9)),
        (nn.Conv2d(3, 4, (3, 1), padding="same", bias=False), (2, 3, 6, 6)),
        (nn.ConvTranspose2d(6, 4, 3, stride=2, output_padding=1, groups=2), (2, 6, 4, 4)),
        (nn.ConvTranspose2d(4, 6, 3, padding=1, dilation=2, bias=False), (2, 4, 4, 4)),
        (nn.Linear(5, 4), (2, 5)),
        (nn.Linear(5, 4, bias=False), (2, 3, 5)),
        (nn.BatchNorm1d(5, eps=1e-3, momentum=0.3), (4, 5)),
        (nn.BatchNorm2d(5, affine=False), (2, 5, 3, 3)),
        (nn.BatchNorm3d(5), (2, 5, 2, 2, 2)),
        (nn.LayerNorm(5, eps=1e-3), (2, 5)),
        (nn.LayerNorm((3, 5), bias=False), (2, 3, 5)),
        (nn.GroupNorm(3, 6, eps=1e-3), (2, 6, 4)),
    ],
    ids=repr,
)
def test_a_layer_comes_back_with_its_settings(layer: nn.Module, shape: tuple[int, ...]) -> None:
    net = nn.Sequential(layer, nn.PReLU())
    found = lifted(net, torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    assert repr(found.get_submodule("0")) == repr(layer)


@pytest.mark.parametrize("padding", [None, 0, 2])
def test_an_embedding_comes_back_with_its_padding(padding: int | None) -> None:
    net = nn.Sequential(nn.Embedding(7, 5, padding_idx=padding), nn.Linear(5, 3))
    found: Any = lifted(net, torch.tensor([[1, 2], [0, 6]])).get_submodule("0")
    assert (found.num_embeddings, found.embedding_dim) == (7, 5)
    assert found.padding_idx == padding


class GatedDropout(nn.Module):
    """Dropout that has a weight of its own, and so a place that no layer may take."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.gate(x), 0.3, self.training)


def test_dropout_takes_no_place_that_is_not_free() -> None:
    found = lifted(nn.Sequential(GatedDropout(), nn.Linear(5, 3)), torch.ones(2, 5))
    assert isinstance(found.get_submodule("0.gate"), nn.Linear)
    (place,) = (n for n, m in found.named_modules() if isinstance(m, nn.Dropout))
    assert place == "dropout_dropout"
    assert repr(found.get_submodule(place)) == "Dropout(p=0.3, inplace=False)"


def test_dropout_comes_back_where_it_was() -> None:
    net = nn.Sequential(nn.Linear(5, 64), nn.Dropout(0.4), nn.Linear(64, 3), nn.Dropout(0.2))
    found = lifted(net, torch.ones(2, 5))
    assert [repr(found.get_submodule(n)) for n in "13"] == [repr(net[1]), repr(net[3])]


class ScaledDropout(nn.Module):
    """Likewise, with a parameter and no layer below it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.scale * x, 0.3, self.training)


def test_dropout_takes_no_place_that_holds_a_parameter() -> None:
    found = lifted(nn.Sequential(ScaledDropout(), nn.Linear(5, 3)), torch.ones(2, 5))
    assert found.get_parameter("0.scale").shape == (5,)
    assert isinstance(found.get_submodule("dropout_dropout"), nn.Dropout)


class Gained(nn.Module):
    """A weight and a bias as a linear layer has them, and something beside them."""

    def __init__(self, beside: str) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(4, 5)), nn.Parameter(torch.ones(4))
        self.beside = beside
        if beside == "parameter":
            self.gain = nn.Parameter(torch.full((4,), 2.0))
        elif beside == "buffer":
            self.register_buffer("gain", torch.full((4,), 2.0))
        else:
            self.next = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        made = F.linear(x, self.weight, self.bias)
        result: Tensor = self.next(made) if self.beside == "layer" else made * self.gain
        return result


@pytest.mark.parametrize("beside", ["parameter", "buffer", "layer"])
def test_what_holds_more_than_a_layer_stays_as_it_is(beside: str) -> None:
    found = lifted(nn.Sequential(Gained(beside), nn.Linear(4, 3)), torch.ones(2, 5))
    assert not isinstance(found.get_submodule("0"), nn.Linear)
    assert {n for n, _ in found.named_parameters()} >= {"0.weight", "0.bias", "1.weight"}
    assert isinstance(found.get_submodule("1"), nn.Linear)


class Twice(nn.Module):
    """One weight under two strides."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.weight
        wide = F.conv1d(x, weight, self.layer.bias, stride=2)
        result: Tensor = self.layer(x).mean(2) + wide.mean(2)
        return result


def test_calls_of_one_weight_that_differ_stay_functions() -> None:
    found = lifted(Twice(), torch.ones(2, 3, 8))
    assert not isinstance(found.get_submodule("layer"), nn.Conv1d)


def test_calls_of_one_layer_become_calls_of_one_layer() -> None:
    layer = nn.Linear(4, 4)
    net = nn.Sequential(layer, nn.ReLU(), layer)
    found: Any = lifted(net, torch.ones(2, 4))
    called = [n.target for n in found.graph.nodes if n.op == "call_module"]
    assert called == ["0", "0"]
    assert isinstance(found.get_submodule("0"), nn.Linear)
