"""`factorize`: budget, equality with the merged weights, and what each method keeps on trained
networks.
"""

import copy
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import fxprune
from benchmarks.models.nets import trained
from fxprune.demo.data import DemoData, load
from fxprune.errors import PlanError, UnsupportedError
from fxprune.plans.methods import RANK_METHODS
from tests.nets import images, loader, tiny
from tests.tensors import EXACT, distance, normal


class Mixed(nn.Module):
    """Strided, grouped and depthwise convolutions with and without BatchNorm, and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = (
            nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
        )
        self.grouped, self.depthwise = (
            nn.Conv2d(16, 24, 3, stride=2, groups=2),
            nn.Conv2d(24, 24, 3, groups=24),
        )
        self.last, self.head = nn.Conv2d(24, 24, 3), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.grouped(torch.relu(self.norm(self.stem(x)))))
        logits: Tensor = self.head(torch.relu(self.last(self.depthwise(x))).mean((2, 3)))
        return logits


@cache
def data() -> DemoData:
    return load()


@cache
def original(name: str) -> nn.Module:
    if name == "mlp":
        return trained(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Mixed().eval()


@cache
def small_of(name: str, method: str) -> GraphModule:
    return fxprune.factorize(
        original(name), data().calibration[:200], params=0.6, method=method, progress=False
    )


@pytest.mark.parametrize("method", RANK_METHODS)
@pytest.mark.parametrize("name", ["mlp", "mixed"])
def test_masked_equivalence_and_budget(name: str, method: str) -> None:
    small, x = small_of(name, method), data().images[:200]
    found = fxprune.report(small)
    assert (
        0.5 * found.params[0]
        < found.params[1]
        == sum(p.numel() for p in small.parameters())
        <= 0.6 * found.params[0]
    )
    double, twin = copy.deepcopy(small).double(), copy.deepcopy(original(name)).double()
    with torch.no_grad():
        assert distance(fxprune.masked(original(name), small)(x), small(x)) <= 1e-4
        assert distance(fxprune.masked(twin, double)(x.double()), double(x.double())) <= EXACT
        same = (original(name)(x).argmax(1) == small(x).argmax(1)).double().mean()
    assert same >= (0.95 if name == "mlp" else 0)
    assert any(
        row.name.endswith("as two layers") and row.after < row.before for row in found.groups
    )


@pytest.mark.parametrize("name", ["mlp", "mixed"])
def test_with_the_data_the_outputs_keep_closer(name: str) -> None:
    x = data().images[:500]
    with torch.no_grad():
        reference = original(name)(x)
        errors = {
            m: float((small_of(name, m)(x) - reference).square().mean()) for m in RANK_METHODS
        }
    assert errors["pca"] < min(errors[m] for m in RANK_METHODS if m != "pca")


def test_one_layer_becomes_the_pca_of_its_outputs() -> None:
    torch.manual_seed(0)
    net, x = (
        nn.Sequential(nn.Linear(12, 10), nn.Identity()).double(),
        normal(400, 12) @ normal(12, 12, seed=1) + 1,
    )
    small = fxprune.factorize(net, x, params=0.7, progress=False)
    rank = fxprune.plan_of(small).factorings["0.weight"].rank
    with torch.no_grad():
        y, found = net(x), small(x)
    basis = scipy.linalg.svd((y - y.mean(0)).numpy(), full_matrices=False)[2][:rank]
    best = float(np.square((y - y.mean(0)).numpy() @ (np.eye(10) - basis.T @ basis)).sum())
    # The fit leaves a fifth of the examples out.
    assert best <= float((y - found).square().sum()) <= 1.05 * best


def test_a_model_that_is_one_layer() -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(12, 10).double(), normal(300, 12)
    small = fxprune.factorize(net, x, params=0.8, progress=False)
    assert set(small.state_dict()) == {"0.weight", "1.weight", "1.bias"}
    with torch.no_grad():
        assert distance(fxprune.masked(net, small)(x), small(x)) <= EXACT


def test_names_plans_and_another_checkpoint() -> None:
    small = fxprune.factorize(tiny(), loader(), params=0.7, progress=False)
    plan = fxprune.plan_of(small)
    assert plan.factorings
    name = next(iter(plan.factorings)).removesuffix(".weight")
    assert {f"{name}.0.weight", f"{name}.1.weight", f"{name}.1.bias"} <= set(small.state_dict())
    assert not {f"{name}.weight", f"{name}.bias"} & set(small.state_dict())
    again = fxprune.Plan.from_json(json.dumps(json.loads(plan.to_json())))
    assert again == plan
    other = fxprune.apply(tiny(), again, loader(), progress=False)
    assert {n: t.shape for n, t in other.state_dict().items()} == {
        n: t.shape for n, t in small.state_dict().items()
    }
    with torch.no_grad():
        torch.testing.assert_close(other(images(4)), small(images(4)))
    with pytest.raises(PlanError):
        fxprune.apply(
            nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)),
            again,
            torch.randn(64, 3),
            progress=False,
        )


def test_what_stays_one_layer_is_named_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxprune.label.layers.MOST_OUTPUTS", 15)
    small = fxprune.factorize(tiny(), loader(), params=0.9, ignore="second", progress=False)
    reasons = {row.name: row.reason for row in fxprune.report(small).alone}
    assert reasons["second.weight"] == "ignored on request"
    assert reasons["hidden.weight"] == "it has more than 15 outputs"
    assert "second.weight" in small.state_dict()
    assert set(reasons) | set(fxprune.plan_of(small).factorings) == {
        f"{n}.weight" for n in ("first", "second", "hidden", "head")
    }
    assert "as two layers" in str(fxprune.report(small))


def test_either_order_composes() -> None:
    reduced = fxprune.compress(tiny(), loader(), flops=0.7, method="uniform", progress=False)
    after = fxprune.factorize(reduced, loader(), params=0.8, progress=False)
    before = fxprune.compress(
        fxprune.factorize(tiny(), loader(), params=0.8, progress=False),
        loader(),
        flops=0.7,
        method="uniform",
        progress=False,
    )
    x = images(16, seed=3)
    with torch.no_grad():
        # One check after the other: the factors multiplied back, then the channels scattered back.
        assert distance(fxprune.masked(tiny(), fxprune.masked(reduced, after))(x), after(x)) <= 1e-4
        for small in (after, before):
            assert distance(tiny()(x), small(x)) < 1
    assert any(".0.weight" in name for name in fxprune.plan_of(before).kept), (
        "ranks are channels like any other"
    )


def test_saved_loaded_compiled_and_trained(tmp_path: Path) -> None:
    small, x = small_of("mixed", "learned-rank"), data().images[:8]
    fxprune.save(small, tmp_path / "small.safetensors")
    again = fxprune.load(tmp_path / "small.safetensors")
    mine = fxprune.load(tmp_path / "small.safetensors", into=original("mixed"))
    with torch.no_grad():
        wanted = small(x)
        assert torch.equal(again(x), wanted)
        assert torch.equal(mine(x), wanted)
        torch.testing.assert_close(torch.compile(small, fullgraph=True, backend="eager")(x), wanted)
    assert fxprune.plan_of(again) == fxprune.plan_of(small)
    assert (
        type(
            mine.get_submodule(
                next(iter(fxprune.plan_of(small).factorings)).removesuffix(".weight")
            )
        )
        is nn.Sequential
    )
    again.train()(x).sum().backward()
    assert all(p.grad is not None for p in again.parameters())


def test_unknown_method() -> None:
    with pytest.raises(UnsupportedError, match="not one of pca, svd, learned-rank, alds"):
        fxprune.factorize(tiny(), loader(), method="tucker", progress=False)
