"""The structural check, and whom it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import PlanError
from tests.nets import Net, images, tiny


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return fxprune.compress(tiny(), images(64), flops=0.5, method="magnitude", progress=False)


def test_outputs_are_equal_and_removed_channels_are_zero(small: nn.Module) -> None:
    model = tiny().train()
    full = fxprune.masked(model, small)
    with torch.no_grad():
        torch.testing.assert_close(full(images(5)), small(images(5)), rtol=1e-5, atol=1e-5)
    assert not full.training
    assert model.training, "the original is not changed"
    for name, axes in fxprune.plan_of(small).kept.items():
        weight = full.state_dict()[name]
        assert weight.shape == model.state_dict()[name].shape
        for axis, indices in axes.items():
            gone = sorted(set(range(weight.shape[axis])) - set(indices))
            assert gone
            assert not weight.index_select(axis, torch.tensor(gone)).any()


def test_another_model_is_refused(small: nn.Module) -> None:
    with pytest.raises(PlanError, match=r"of the compressed model is not a tensor of this Linear"):
        fxprune.masked(nn.Linear(3, 3), small)
    other = tiny()
    other.hidden = nn.Linear(8, 24)
    with pytest.raises(PlanError, match=r"^hidden\.weight has shape \(24, 8\); the plan was made"):
        fxprune.masked(other, small)
    with pytest.raises(PlanError, match="carries no fxprune plan"):
        fxprune.masked(tiny(), tiny())


def test_constants_of_the_forward_are_the_originals_own() -> None:
    """The trace holds them as tensors, of which the original's module has none."""

    def forward(net: Any, x: torch.Tensor) -> Any:
        hidden = torch.relu(net.first(x) * torch.tensor([0.5, 1.5] * 4) + torch.tensor(0.1))
        return net.second(hidden)

    torch.manual_seed(0)
    model = Net(forward, first=nn.Linear(3, 8), second=nn.Linear(8, 4))
    x = torch.randn(64, 3)
    small = fxprune.compress(model, x, flops=0.6, method="magnitude", progress=False)
    assert fxprune.plan_of(small).kept
    with torch.no_grad():
        torch.testing.assert_close(fxprune.masked(model, small)(x), small(x), rtol=1e-5, atol=1e-5)


class Tied(nn.Module):
    """A table of tokens that also scores them; its second reader stands first or last."""

    def __init__(self, head_first: bool) -> None:
        super().__init__()
        table, head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
        head.weight = table.weight
        for name, layer in [("head", head), ("table", table)][:: 1 if head_first else -1]:
            self.add_module(name, layer)
        self.hidden, self.back = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        table, head = self.get_submodule("table"), self.get_submodule("head")
        scores: torch.Tensor = head(self.back(torch.relu(self.hidden(table(x).mean(1)))))
        return scores


@pytest.mark.parametrize("head_first", [True, False])
def test_a_tensor_under_two_names_is_filled_once(head_first: bool) -> None:
    torch.manual_seed(0)
    model, tokens = Tied(head_first).eval(), torch.randint(0, 20, (64, 5))
    small = fxprune.compress(model, tokens, flops=0.6, method="magnitude", progress=False)
    full = fxprune.masked(model, small)
    assert full.get_parameter("head.weight") is full.get_parameter("table.weight")
    torch.testing.assert_close(full(tokens), small(tokens), rtol=1e-5, atol=1e-5)


class Scaled(nn.Module):
    """Multiplies channels by constants that its forward makes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu() * torch.tensor(0.5)
        scale = torch.tensor([1.0, 2.0, 3.0, 4.0] * 4)
        result: Tensor = self.second(hidden * scale)
        return result


class Blurred(nn.Module):
    """Reads through a depthwise kernel that its forward makes, and a weight that it makes too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
        x = nn.functional.conv2d(
            self.first(x).relu(), kernel.expand(16, 1, 3, 3), padding=1, groups=16
        )
        x = self.second(x).relu().mean((2, 3))
        weight = torch.tensor([[(-1.0) ** (i // (k + 1)) for i in range(8)] for k in range(4)])
        return nn.functional.linear(x, weight)


class Normalized(nn.Module):
    """A batch norm written out, without a counter; its weights may be buffers."""

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3)
        self.norm = nn.Module()
        draw = torch.Generator().manual_seed(0)
        for name in ("weight", "bias", "running_mean", "running_var"):
            value = torch.rand(16, generator=draw) + 0.5
            if frozen or name.startswith("running"):
                self.norm.register_buffer(name, value)
            else:
                self.norm.register_parameter(name, nn.Parameter(value))

    def forward(self, x: Tensor) -> Tensor:
        norm: Any = self.norm
        x = nn.functional.batch_norm(
            self.first(x), norm.running_mean, norm.running_var, norm.weight, norm.bias
        )
        result: Tensor = self.second(x.relu()).mean((2, 3))
        return result


class Attributed(nn.Module):
    """Holds a tensor that it never registered."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 4)
        self.scale = torch.linspace(0.5, 2, 16)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x).relu() * self.scale)
        return result


@pytest.mark.parametrize(
    "make",
    [Scaled, Attributed, Blurred, lambda: Normalized(False), lambda: Normalized(True)],
    ids=["inline", "attribute", "made-weights", "no-counter", "frozen-norm"],
)
def test_constants_and_bare_norms(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = make().eval()
    x = torch.randn(80, 6) if hasattr(model.first, "in_features") else torch.randn(80, 3, 8, 8)
    small = fxprune.compress(model, x, flops=0.6, method="channels", progress=False)
    fxprune.save(small, tmp_path / "small.safetensors")
    assert len(small.get_parameter("first.weight")) < 16
    for result in (small, fxprune.load(tmp_path / "small.safetensors")):
        with torch.no_grad():
            torch.testing.assert_close(fxprune.masked(model, result)(x), result(x))
    assert not any("made" in name for name, _ in small.named_parameters())


def test_what_a_forward_makes_is_not_fitted() -> None:
    """No module could be given it back."""
    torch.manual_seed(0)
    model = Blurred()
    small = fxprune.factorize(model, torch.randn(60, 3, 8, 8), params=0.9, progress=False)
    made = [b for name, b in small.named_buffers() if name.startswith("made_in_forward")]
    weight = torch.tensor([[(-1.0) ** (i // (k + 1)) for i in range(8)] for k in range(4)])
    assert any(torch.equal(buffer, weight) for buffer in made)
