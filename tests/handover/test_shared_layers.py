"""Flat graphs, whose weights are plain tensors of the root: calls become layers that share these,
and every tensor keeps its one name.
"""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from fxprune.errors import StorageError
from fxprune.graph.tensors import AS_LAYERS


class Flat(nn.Module):
    """Convolutions, norms and linear maps by functions, over parameters and buffers of its own."""

    mean: Tensor
    var: Tensor

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator) * 0.3)

        self.first, self.first_add = weight(12, 3, 3, 3), weight(12)
        self.gain, self.shift = weight(12), weight(12)
        self.register_buffer("mean", torch.zeros(12))
        self.register_buffer("var", torch.ones(12))
        self.p_conv_weight, self.p_conv_bias = weight(16, 3, 3, 3), weight(16)
        self.scale, self.add = weight(16), weight(16)
        self.into, self.out = weight(24, 16), weight(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.first, self.first_add, padding=1)
        x = F.batch_norm(x, self.mean, self.var, self.gain, self.shift, self.training).relu()
        x = F.conv2d(x, self.p_conv_weight, self.p_conv_bias, stride=2, groups=4).relu()
        x = F.layer_norm(x.flatten(2).transpose(1, 2), (16,), self.scale, self.add)
        x = F.dropout(F.gelu(F.linear(x, self.into)), 0.1, self.training)
        return x.mean(1) @ self.out


@pytest.fixture(scope="module")
def made() -> tuple[Flat, Tensor, Any]:
    model, x = Flat().eval(), torch.randn(60, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return (
        model,
        x,
        fxprune.compress(model, x, flops=0.6, method="channels", decision="close", progress=False),
    )


def test_calls_become_layers_that_share_tensors(made: tuple[Flat, Tensor, Any]) -> None:
    model, x, small = made
    layers = {name: type(layer) for name, layer in small.get_submodule(AS_LAYERS).named_children()}
    expected = {"first": nn.Conv2d, "p_conv": nn.Conv2d, "into": nn.Linear}
    assert layers.items() >= expected.items()
    assert nn.BatchNorm2d in layers.values()
    assert small.state_dict().keys() == model.state_dict().keys()
    assert [n for n, _ in small.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert torch.equal(small(x[:3]), small(x[:3]))
    torch.testing.assert_close(fxprune.masked(model, small)(x), small(x))


def _loaded(small: Any) -> Any:
    loaded = copy.deepcopy(small)
    state = {name: value + 1 for name, value in small.state_dict().items()}
    loaded.load_state_dict(state)
    own = {name: value.clone() for name, value in small.state_dict().items()}
    loaded.load_state_dict(own, assign=True)
    return loaded


def _loaded_around(small: Any) -> Any:
    around = nn.Sequential(copy.deepcopy(small))
    values = {f"0.{name}": torch.zeros_like(v) for name, v in small.state_dict().items()}
    assert around.state_dict().keys() == values.keys()
    around.load_state_dict(values)
    assert not around(torch.ones(2, 3, 6, 6)).any()
    own = {f"0.{name}": v.clone() for name, v in small.state_dict().items()}
    around.load_state_dict(own, assign=True)
    return around[0]


COPIES: dict[str, Callable[[Any], Any]] = {
    "deep copy": copy.deepcopy,
    "pickle": lambda small: pickle.loads(pickle.dumps(small)),
    "double and back": lambda small: copy.deepcopy(small).double().float(),
    "state dict": _loaded,
    "state dict of what is around": _loaded_around,
}


@pytest.mark.parametrize("way", COPIES)
def test_layers_share_their_tensors_in_every_copy(made: tuple[Flat, Tensor, Any], way: str) -> None:
    small, x = made[2], made[1][:4]
    other = COPIES[way](small)
    torch.testing.assert_close(other(x), small(x))
    assert other.state_dict().keys() == small.state_dict().keys()
    with torch.no_grad():
        for tensor in (*other.parameters(recurse=False), *other.buffers(recurse=False)):
            tensor.zero_()
    assert not other(x).any(), "the layers read the tensors of the root"


def test_training_reaches_the_batch_norm(made: tuple[Flat, Tensor, Any]) -> None:
    small, x = copy.deepcopy(made[2]).train(), made[1]
    small(x + 3)
    assert small.mean.abs().sum() > 0, "the root's own statistics follow"


def test_a_file_and_the_class_take_them(made: tuple[Flat, Tensor, Any], tmp_path: Any) -> None:
    model, x, small = made
    fxprune.save(small, tmp_path / "small.safetensors")
    loaded = fxprune.load(tmp_path / "small.safetensors")
    assert torch.equal(loaded(x[:3]), small(x[:3]))
    assert loaded.state_dict().keys() == small.state_dict().keys()


def test_what_was_compressed_is_compressed_again(made: tuple[Flat, Tensor, Any]) -> None:
    _, x, small = made
    smaller = fxprune.compress(
        small, x, flops=0.8, method="channels", decision="close", progress=False
    )
    assert smaller.state_dict().keys() == small.state_dict().keys()
    torch.testing.assert_close(fxprune.masked(small, smaller)(x), smaller(x))


def test_weights_become_two_layers_whatever_their_names(
    made: tuple[Flat, Tensor, Any], tmp_path: Path
) -> None:
    """Biases stay where they are."""
    model, x, _ = made
    small = fxprune.factorize(model, x, params=0.7, decision="close", progress=False)
    factored = set(fxprune.plan_of(small).factorings)
    assert {"into", "p_conv_weight"} <= factored
    expected = set(model.state_dict()) - factored
    expected |= {f"{name}.{part}.weight" for name in factored for part in "01"}
    assert set(small.state_dict()) == expected
    assert type(small.get_submodule("into.1")) is nn.Linear
    torch.testing.assert_close(fxprune.masked(model, small)(x), small(x))
    fxprune.save(small, tmp_path / "small.safetensors")
    assert torch.equal(fxprune.load(tmp_path / "small.safetensors")(x[:3]), small(x[:3]))
    with pytest.raises(StorageError, match=r"the module has no \w+\.0\.weight"):
        fxprune.load(tmp_path / "small.safetensors", into=Flat())
    with torch.no_grad():
        model.into.requires_grad_(False)
        again = fxprune.apply(model, fxprune.plan_of(small), x, progress=False)
        model.into.requires_grad_(True)
    frozen = {name for name, p in again.named_parameters() if not p.requires_grad}
    assert frozen == {"into.0.weight", "into.1.weight"}


def test_a_flat_graph_may_call_a_weight_weight(tmp_path: Path) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = (
                nn.Parameter(torch.randn(24, 16) / 4),
                nn.Parameter(torch.ones(24)),
            )
            self.other = nn.Parameter(torch.randn(5, 24) / 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.linear(x, self.weight, self.bias).tanh(), self.other)

    torch.manual_seed(0)
    model, x = Named(), torch.randn(60, 16)
    small = fxprune.factorize(model, x, params=0.7, decision="close", progress=False)
    assert set(small.state_dict()) == {"0.weight", "1.weight", "1.bias", "other"}
    assert type(small.get_submodule("1")) is nn.Linear
    torch.testing.assert_close(fxprune.masked(model, small)(x), small(x))
    fxprune.save(small, tmp_path / "small.safetensors")
    assert torch.equal(fxprune.load(tmp_path / "small.safetensors")(x[:3]), small(x[:3]))
    with pytest.raises(StorageError, match="the module has no"):
        fxprune.load(tmp_path / "small.safetensors", into=Named())
    narrow = fxprune.compress(
        model, x, flops=0.6, method="channels", decision="close", progress=False
    )
    assert set(narrow.state_dict()) == {"weight", "bias", "other"}
    torch.testing.assert_close(fxprune.masked(model, narrow)(x), narrow(x))


def test_a_layer_of_the_callers_own_making_becomes_two() -> None:
    class Kernel(nn.Module):
        def __init__(self, outputs: int, inputs: int) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
            self.offset = nn.Parameter(torch.randn(outputs))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.kernel, self.offset)

    torch.manual_seed(0)
    model, x = nn.Sequential(Kernel(24, 16), nn.Tanh(), Kernel(12, 24)), torch.randn(60, 16)
    small = fxprune.factorize(model, x, params=0.7, decision="close", progress=False)
    assert "0.kernel" in fxprune.plan_of(small).factorings
    assert {"0.kernel.0.weight", "0.kernel.1.weight", "0.offset"} < set(small.state_dict())
    torch.testing.assert_close(fxprune.masked(model, small)(x), small(x))


def test_frozen_tensors_stay_frozen() -> None:
    model, x = Flat().eval(), torch.randn(40, 3, 6, 6)
    model.p_conv_weight.requires_grad_(False)
    small = fxprune.compress(
        model, x, flops=0.6, method="channels", decision="close", progress=False
    )
    assert [n for n, p in small.named_parameters() if not p.requires_grad] == ["p_conv_weight"]


class WithItsOwnStatistics(nn.Module):
    """Batch statistics in evaluation, beside running ones."""

    mean: Tensor
    var: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(self.a(x), self.mean.clone(), self.var.clone(), training=True)
        result: Tensor = self.b(x.relu().mean((2, 3)))
        return result


def test_a_norm_by_the_statistics_of_its_batch_stays_one() -> None:
    model, x = WithItsOwnStatistics().eval(), torch.randn(40, 3, 6, 6) * 5
    small = fxprune.compress(
        model, x, flops=0.7, method="channels", decision="close", progress=False
    )
    assert AS_LAYERS not in dict(small.named_children())
    with torch.no_grad():
        torch.testing.assert_close(fxprune.masked(model, small)(x), small(x))
