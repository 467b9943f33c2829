"""The structural check, and whom it refuses."""

from typing import Any

import pytest
import torch
from torch import nn

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
