"""Compressing seen from outside: what a caller passes, gets and notices."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from tests.nets import images, loader, tiny


def test_a_result_is_an_ordinary_module() -> None:
    net = tiny()
    small = fxprune.compress(net, loader(), flops=0.5, progress=False)
    x = images(4, seed=9)
    twin = copy.deepcopy(small)
    assert fxprune.report(twin) == fxprune.report(small)
    torch.testing.assert_close(twin(x), small(x))
    assert isinstance(small.get_submodule("norm"), nn.BatchNorm2d)
    before = small.get_buffer("norm.running_mean").clone()
    twin.train()(x).sum().backward()
    assert all(p.grad is not None for p in twin.parameters())
    assert not torch.equal(twin.get_buffer("norm.running_mean"), before)
    torch.testing.assert_close(small.get_buffer("norm.running_mean"), before)
    other = copy.deepcopy(small)
    other.load_state_dict(small.state_dict())
    torch.testing.assert_close(other.eval()(x), small(x))


@pytest.mark.slow
def test_compiles_whole() -> None:
    small = fxprune.compress(tiny(), loader(), flops=0.5, progress=False)
    fast = torch.compile(small, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(
            fast(images(8, seed=3)), small(images(8, seed=3)), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("training", [True, False])
def test_the_caller_notices_nothing(training: bool) -> None:
    net = tiny().train(training)
    net.get_submodule("norm").eval()
    modes = [m.training for m in net.modules()]
    state = copy.deepcopy(net.state_dict())
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    wanted = random.random(), np.random.random(), torch.rand(3)
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    fxprune.compress(net, loader(), flops=0.5, progress=False)
    assert (random.random(), np.random.random()) == wanted[:2]
    assert torch.equal(torch.rand(3), wanted[2])
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_same_seed_same_plan_and_weights() -> None:
    first, second = (
        fxprune.compress(tiny(), loader(), flops=0.4, seed=5, progress=False) for _ in range(2)
    )
    assert fxprune.plan_of(first) == fxprune.plan_of(second)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_plan_round_trip_and_apply() -> None:
    made = fxprune.plan(tiny(), loader(), flops=0.5, progress=False)
    again = fxprune.Plan.from_json(json.dumps(json.loads(made.to_json())))
    assert again == made
    assert again.kept == made.kept
    small = fxprune.apply(tiny(), again, loader(), progress=False)
    assert fxprune.plan_of(small).kept == made.kept
    whole = fxprune.compress(tiny(), loader(), flops=0.5, progress=False)
    with torch.no_grad():
        torch.testing.assert_close(small(images(4)), whole(images(4)))
    for name, axes in made.kept.items():
        for axis, kept in axes.items():
            assert small.state_dict()[name].shape[axis] == len(kept)


@pytest.mark.parametrize(("agreement", "examples"), [(0.9, 100), (None, 800)])
def test_plan_decides_what_compress_does(agreement: float | None, examples: int) -> None:
    head = nn.Linear(6, 2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), head)
    # A class that always wins: every size agrees.
    with torch.no_grad():
        head.bias.copy_(torch.tensor([100.0, 0.0]))
    data = images(examples)
    asked: dict[str, Any] = {
        "agreement": agreement,
        "method": "magnitude",
        "decision": "argmax",
        "progress": False,
    }
    made = fxprune.plan(net, data, **asked)
    small = fxprune.compress(net, data, **asked)
    assert made.kept == fxprune.plan_of(small).kept
    assert fxprune.report(small).agreement is not None


def test_a_plan_fits_another_checkpoint_but_no_other_model() -> None:
    made = fxprune.plan(tiny(), loader(), flops=0.5, progress=False)
    other = tiny()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
    small = fxprune.apply(other, made, loader(), progress=False)
    assert fxprune.plan_of(small).kept == made.kept
    with pytest.raises(fxprune.PlanError):
        fxprune.apply(
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)),
            made,
            loader(),
            progress=False,
        )


def test_keeping_everything_returns_the_original() -> None:
    net = tiny().double()
    small = fxprune.compress(net, images(128).double(), flops=1.0, progress=False)
    x = images(8, seed=2).double()
    assert (net(x) - small(x)).abs().max() < 1e-10 * net(x).abs().max()


@pytest.mark.parametrize(
    "batches",
    [
        images(96),
        [(images(48), torch.zeros(48)), (images(48, 1), torch.zeros(48))],
        [{"x": images(96), "labels": torch.zeros(96)}],
    ],
    ids=["tensor", "tuples", "dicts"],
)
def test_kinds_of_loader(batches: object) -> None:
    small = fxprune.compress(tiny(), batches, flops=0.6, progress=False)
    assert small(images(3)).shape == (3, 4)


def test_keywords_in_another_order_than_traced() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            out: Tensor = self.c(torch.relu(self.a(x) + self.b(y)))
            return out

    x, y = torch.randn(80, 4), torch.randn(80, 6)
    small = fxprune.compress(Two(), [{"y": y, "x": x}, {"x": x, "y": y}], flops=0.6, progress=False)
    assert small(x=x[:3], y=y[:3]).shape == (3, 3)


def test_budgets_combine_and_widths_round() -> None:
    net = tiny()
    small = fxprune.compress(net, loader(), flops=0.7, params=0.5, round_to=4, progress=False)
    found = fxprune.report(small)
    assert found.flops[1] <= 0.7 * found.flops[0]
    assert found.params[1] <= 0.5 * found.params[0]
    assert all(row.after % 4 == 0 for row in found.groups)


def test_ignored_layers_keep_their_shape_and_say_so() -> None:
    net = tiny()
    small = fxprune.compress(net, loader(), flops=0.7, ignore=["first"], progress=False)
    assert small.get_parameter("first.weight").shape == net.get_parameter("first.weight").shape
    assert any(
        row.name.startswith("first.weight") and row.reason for row in fxprune.report(small).alone
    )


def test_analyze_needs_no_data_and_draws() -> None:
    net = tiny()
    found = fxprune.analyze(net, images(1))
    assert [line.split(":")[0] for line in str(found).splitlines()] == [
        g.name for g in found.groups
    ]
    graph = found.to_networkx()
    assert {g.name for g in found.groups} <= set(graph.nodes)


@pytest.mark.parametrize("method", ["auto", "uniform", "paper"])
def test_keep_sets_a_floor_for_named_layers(method: str) -> None:
    small = fxprune.compress(
        tiny(),
        loader(),
        flops=0.4,
        method=method,
        keep={"second": 0.75, "hid*": 1.0},
        progress=False,
    )
    widths = fxprune.plan_of(small).widths
    assert widths["second"] >= 6
    assert widths["hidden"] == 16
    assert widths["first"] < 8


def test_plot_draws_every_curve(tmp_path: Path) -> None:
    curve = fxprune.sweep(tiny(), loader(), budgets=[0.8, 0.5], method="uniform", progress=False)
    figure = fxprune.plot({"ours": curve, "again": curve}, tmp_path / "curve.png")
    lengths = [len(np.asarray(line.get_xdata())) for line in figure.axes[0].lines]
    assert lengths == [2, 2, 1]  # and the original
    assert (tmp_path / "curve.png").stat().st_size > 5000
