"""Weights computed from others, and weights that take no part: what the result holds and counts."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm

import fxprune
from fxprune.capture.copying import copy_model
from fxprune.capture.parametrizations import fold_parametrizations
from fxprune.errors import PlanError
from tests.nets import Net, images


def wrapped(wrap: Callable[..., nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        wrap(nn.Conv2d(3, 12, 3, padding=1)),
        nn.ReLU(),
        wrap(nn.Conv2d(12, 16, 3, padding=1)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        wrap(nn.Linear(16, 5)),
    ).eval()


NORMS: dict[str, Any] = {
    "old weight norm": weight_norm,
    "old spectral norm": spectral_norm,
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}
PLAIN = ["0.weight", "0.bias", "2.weight", "2.bias", "6.weight", "6.bias"]


@pytest.mark.parametrize("norm", NORMS)
def test_the_folded_weight_replaces_its_parametrization(norm: str) -> None:
    model = wrapped(NORMS[norm])
    own = sum(p.numel() for p in model.parameters())
    names, x = [n for n, _ in model.named_parameters()], images(48)
    with torch.no_grad():
        before = model(x)
    small = fxprune.compress(model, x, flops=0.6, method="magnitude", progress=False)
    assert sorted(n for n, _ in small.named_parameters()) == sorted(PLAIN)
    held = fxprune.report(small).params
    assert held == (own, sum(p.numel() for p in small.parameters()))
    assert not [n for n, _ in small.named_buffers() if "parametrizations" in n]
    small(x).square().sum().backward()
    # A parameter without a gradient would stop DistributedDataParallel.
    assert [n for n, p in small.named_parameters() if p.grad is None] == []
    with torch.no_grad():
        full = fxprune.masked(model, small)
        torch.testing.assert_close(full(x), small(x), rtol=1e-4, atol=1e-4)
        assert torch.equal(model(x), before), "the original is not changed"
    assert [n for n, _ in model.named_parameters()] == names


@pytest.mark.parametrize("norm", NORMS)
def test_folding_a_copy_leaves_the_original_as_it_was(norm: str) -> None:
    model = wrapped(NORMS[norm])
    copied = copy_model(model)
    assert set(fold_parametrizations(copied)) == {"0.weight", "2.weight", "6.weight"}
    x = images(3)
    torch.testing.assert_close(copied(x), model(x))
    if parametrize.is_parametrized(model[0]):
        assert len(list(model[0].parametrizations)) == 1  # type: ignore[arg-type]
    for p in copied.parameters():
        p.data.zero_()
    assert model(x).abs().sum() > 0


def test_a_weight_whose_tensors_others_use_stays_computed() -> None:
    model = wrapped(parametrizations.spectral_norm)
    held: Any = model[2].parametrizations
    model.add_module("tied", Net(lambda s, x: x))
    model.get_submodule("tied").register_parameter("w", held.weight.original)
    assert set(fold_parametrizations(copy_model(model))) == {"0.weight", "6.weight"}


def test_a_weight_that_forward_computes_is_masked_in_a_graph() -> None:
    """The original's class would compute once more from what came out."""

    class Standardized(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return nn.functional.conv2d(x, weight / weight.std(), self.bias)

    torch.manual_seed(0)
    model = nn.Sequential(Standardized(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
    small = fxprune.compress(model, images(48), flops=0.7, method="magnitude", progress=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masked = fxprune.masked(model, small)
    assert masked.state_dict()["0.weight"].shape == (8, 3, 3, 3)
    with torch.no_grad():
        torch.testing.assert_close(masked(images(5, 1)), small(images(5, 1)))
    assert all(torch.equal(before[name], held) for name, held in model.state_dict().items())
    with pytest.raises(PlanError, match="0.weight has shape"):
        fxprune.masked(nn.Sequential(Standardized(3, 9, 3), nn.ReLU(), nn.Conv2d(9, 4, 3)), small)


class TwoHeads(nn.Module):
    """A large head that only trains."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 4)
        self.projector = nn.Sequential(nn.Linear(32, 256), nn.BatchNorm1d(256), nn.Linear(256, 64))

    def forward(self, x: Tensor) -> Any:
        x = self.second(self.first(x).relu()).relu()
        if self.training:
            return self.head(x), self.projector(x)
        return self.head(x)


def test_heads_that_only_train_are_dropped_and_count_as_removed() -> None:
    torch.manual_seed(0)
    model, x = TwoHeads().eval(), torch.randn(64, 8)
    own = sum(p.numel() for p in model.parameters())
    small = fxprune.compress(model, x, params=0.5, method="magnitude", progress=False)
    report = fxprune.report(small)
    assert report.params[0] == own
    assert report.params[1] == sum(p.numel() for p in small.parameters()) < 0.1 * own
    assert "projector.0.weight takes no part in inference and is dropped" in report.notes
    assert not [n for n in small.state_dict() if n.startswith("projector")]
    torch.testing.assert_close(small(x), model(x))  # the head was more than half
    small(x).sum().backward()
    assert all(p.grad is not None for p in small.parameters())
    full = fxprune.masked(model, small)
    torch.testing.assert_close(full(x), small(x))


def test_frozen_parameters_come_back_frozen() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    model.append(parametrizations.weight_norm(nn.Linear(32, 4)))
    model[0].requires_grad_(False)
    model[4].requires_grad_(False)
    x = torch.randn(64, 8)
    for small in (
        fxprune.compress(copy.deepcopy(model), x, flops=0.6, progress=False),
        fxprune.factorize(copy.deepcopy(model), x, method="svd", progress=False),
    ):
        frozen = {n.partition(".")[0] for n, p in small.named_parameters() if not p.requires_grad}
        trained = {n.partition(".")[0] for n, p in small.named_parameters() if p.requires_grad}
        assert frozen == {"0", "4"}
        assert trained == {"2"}


def test_computed_weights_load_into_the_class(tmp_path: Any) -> None:
    model = wrapped(parametrizations.weight_norm)
    small = fxprune.compress(model, images(48), flops=0.6, method="magnitude", progress=False)
    fxprune.save(small, tmp_path / "small.safetensors")
    into = fxprune.load(tmp_path / "small.safetensors", into=wrapped(parametrizations.weight_norm))
    torch.testing.assert_close(into(images(3)), small(images(3)))
