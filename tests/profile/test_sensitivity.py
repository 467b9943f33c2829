"""What layer errors cost the model's output: the estimate against the Jacobian, the prediction
against what happens.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.calibrate.batching import in_order
from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.label.analysis import analyze_graph
from fxprune.profile.sensitivity import sensitivities
from tests.nets import Net, images, session_of, tiny


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return (
        nn.Sequential(
            nn.Linear(12, 16, bias=False),
            nn.Linear(16, 24, bias=False),
            nn.Linear(24, 6, bias=False),
        )
        .double()
        .eval()
    )


def test_estimates_the_jacobian() -> None:
    """Of a linear network the Jacobian from the middle layer to the output is the last weight."""
    model = chain()
    batch = make_batch((torch.randn(4096, 12, dtype=torch.float64),), {})
    captured = capture(model, batch)
    found = sensitivities(
        captured.graph, analyze_graph(captured.graph, batch.size), in_order([batch]), seed=0
    )["1.weight", 1]
    last = model.get_parameter("2.weight").detach()
    output = model(batch.args[0])
    energy = (output - output.mean(1, keepdim=True)).square().sum(1).mean()
    torch.testing.assert_close(
        found * energy, last.mT @ last, atol=0.1 * float((last.mT @ last).diagonal().max()), rtol=0
    )


def test_heads_over_a_vocabulary_weigh_their_outputs_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = chain(), make_batch((torch.randn(64, 12, dtype=torch.float64),), {})
    captured = capture(model, batch)
    analysis = analyze_graph(captured.graph, batch.size)
    whole = sensitivities(captured.graph, analysis, in_order([batch]), seed=0)["1.weight", 1]
    monkeypatch.setattr("fxprune.profile.sensitivity.MOST_OUTPUTS", len(whole) - 1)
    mean = sensitivities(captured.graph, analysis, in_order([batch]), seed=0)["1.weight", 1]
    torch.testing.assert_close(mean, whole.diagonal().mean().view(1, 1))


def test_convolutions_weigh_their_own_channels() -> None:
    """An output channel that the rest of the network ignores costs next to nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 4, 3),
        nn.Conv2d(4, 5, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).eval()
    model.get_parameter("2.weight").data[:, 2] = 0
    batch = make_batch((torch.randn(64, 3, 9, 9),), {})
    captured = capture(model, batch)
    sensitivity = sensitivities(
        captured.graph, analyze_graph(captured.graph, batch.size), in_order([batch]), seed=0
    )["1.weight", 1].diagonal()
    assert sensitivity.shape == (4,)
    assert float(sensitivity[2]) < 0.05 * float(sensitivity[[0, 1, 3]].min())


@pytest.mark.parametrize("flops", [0.9, 0.7])
def test_prediction_is_the_error_where_the_model_is_linear(flops: float) -> None:
    """One group, no nonlinearity, no sequential fit: the first-order prediction is what is
    measured, up to the probes' noise.
    """
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 6)).eval()
    small = fxprune.compress(
        model, torch.randn(2000, 12), flops=flops, method="uniform", progress=False
    )
    report = fxprune.report(small)
    assert report.agreement is not None
    assert sum(r.error for r in report.groups) == pytest.approx(report.agreement.error, rel=0.3)


class Undifferentiable(nn.Module):
    """A linear network on which backward fails."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 32), nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.relu(self.first(x)).detach())
        return out.detach()


def test_without_derivatives_channels_are_chosen_by_each_layer() -> None:
    torch.manual_seed(0)
    small = fxprune.compress(
        Undifferentiable(),
        torch.randn(500, 12),
        flops=0.5,
        method="uniform",
        decision="argmax",
        progress=False,
    )
    report = fxprune.report(small)
    assert any("no derivative" in note for note in report.notes)
    assert report.agreement is not None
    assert report.agreement.rate > 0.5
    assert all(row.error > 0 for row in report.groups)


def choosing(threshold: float, infinite: bool) -> nn.Module:
    """Inverses of what is far from zero, the others being infinite first or not at all."""

    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.first(x)
        far = y.abs() > threshold
        inverse = 1 / (y * far) if infinite else 1 / torch.where(far, y, torch.ones_like(y))
        result: Tensor = net.last(net.second(torch.where(far, inverse, y).tanh()).relu())
        return result

    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(12, 24), nn.Linear(24, 24))
    return Net(forward, first=first, second=nn.Linear(24, 24), last=nn.Linear(24, 4)).eval()


@pytest.mark.parametrize("threshold", [0.1, 1e9])
def test_what_a_choice_throws_away_has_no_say(threshold: float) -> None:
    """Its derivative is zero times infinity."""
    x, found = torch.randn(200, 12, generator=torch.Generator().manual_seed(0)), []
    for infinite in (True, False):
        batch = make_batch((x.double(),), {})
        graph = capture(choosing(threshold, infinite).double(), batch).graph
        analysis = analyze_graph(graph, len(x))
        found.append(sensitivities(graph, analysis, in_order([batch]), seed=0))
    for site, expected in found[1].items():
        torch.testing.assert_close(found[0][site], expected)
    small = fxprune.compress(
        choosing(threshold, True), x, flops=0.5, decision="argmax", progress=False
    )
    assert not any("no derivative" in note for note in fxprune.report(small).notes)


def test_gradients_of_the_model_stay_untouched() -> None:
    model = chain().float()
    fxprune.compress(model, torch.randn(200, 12), flops=0.5, progress=False)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert np.all([p.is_leaf for p in model.parameters()])


def test_a_weight_and_its_transpose_are_consumers_of_their_own() -> None:
    """A tied pair: one reads the weight's columns, the other its rows."""

    def forward(net: Any, x: Tensor) -> Tensor:
        inner = torch.nn.functional.linear(torch.tanh(net.first(x)), net.tied.weight)
        result: Tensor = net.last(torch.tanh(torch.tanh(inner) @ net.tied.weight))
        return result

    torch.manual_seed(0)
    layers = {"first": nn.Linear(4, 6), "tied": nn.Linear(6, 8, bias=False)}
    net = Net(forward, **layers, last=nn.Linear(6, 3)).double().eval()
    x = torch.randn(64, 4, dtype=torch.float64)
    graph = capture(net, make_batch((x,), {})).graph
    found = sensitivities(graph, analyze_graph(graph, 64), in_order([make_batch((x,), {})]), seed=0)
    assert found["tied.weight", 1].shape == (8, 8)
    assert found["tied.weight", 0].shape == (1, 1)
    small = fxprune.compress(net, x, flops=0.6, progress=False)
    assert len(small(x)) == 64


def test_calls_that_consume_one_axis_in_two_ways_add_up() -> None:
    """By a layer, whose outputs are told apart, and by a product, whose outputs weigh alike."""

    def forward(net: Any, x: Tensor) -> Tensor:
        weight, y = net.shared.weight, torch.tanh(net.first(x))
        result: Tensor = torch.nn.functional.linear(y, weight) + 0 * (y @ weight.t()).square()
        return result

    torch.manual_seed(0)
    layers = {"first": nn.Linear(4, 6), "shared": nn.Linear(6, 3, bias=False)}
    net = Net(forward, **layers).double().eval()
    x = torch.randn(4096, 4, dtype=torch.float64)
    graph = capture(net, make_batch((x,), {})).graph
    found = sensitivities(
        graph, analyze_graph(graph, 4096), in_order([make_batch((x,), {})]), seed=0
    )
    matrix = found["shared.weight", 1]
    assert float((matrix - matrix.diagonal().diag()).abs().max()) < 0.1 * float(matrix.max())


def test_a_full_device_is_no_missing_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("fxprune.profile.statistics.sensitivities", full)
    with pytest.raises(torch.OutOfMemoryError):
        _ = session_of(tiny(), images(64)).statistics.sensitivities


@pytest.mark.parametrize("apart", ["queries", "all"])
def test_parts_of_a_weight_in_calls_of_their_own(apart: str) -> None:
    """`nn.MultiheadAttention` cuts one weight in two or three where its inputs differ."""

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm, self.head = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 6)
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            keys = self.norm(x)
            values = self.norm(x) if apart == "all" else keys
            mixed: Tensor = self.attention(self.norm(x), keys, values, need_weights=False)[0]
            out: Tensor = self.head((x + mixed).mean(1))
            return out

    torch.manual_seed(0)
    net, x = Attending().eval(), torch.randn(200, 5, 8)
    graph = capture(net, make_batch((x[:2],), {})).graph
    batch = make_batch((x[:50],), {})
    found = sensitivities(graph, analyze_graph(graph, 50), in_order([batch]), 0)
    assert found["attention.in_proj_weight", 1].shape == (1, 1)
    assert found["attention.out_proj.weight", 1].shape == (16, 16)
    small = fxprune.compress(net, x, flops=0.6, decision="argmax", progress=False)
    before, after = fxprune.report(small).flops
    assert after <= 0.6 * before
    assert not any("derivative" in note for note in fxprune.report(small).notes)
