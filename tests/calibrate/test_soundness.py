"""Random models and sizes that the graph does not take are found before any work."""

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fxprune
from fxprune.calibrate.loader import Calibration
from fxprune.calibrate.soundness import require_sizes
from fxprune.capture.export import capture
from fxprune.errors import CalibrationError, UnsupportedError
from tests.nets import Net, images, tiny


def plain(x: Tensor) -> Tensor:
    return x


def net(
    inside: Callable[[Tensor], Tensor] = plain, before: Callable[[Tensor], Tensor] = plain
) -> Net:
    """Two layers on (N, 6), with something between them or before the first."""
    torch.manual_seed(0)
    return Net(
        lambda net, x: net.head(inside(torch.relu(net.first(before(x))))),
        first=nn.Linear(6, 16),
        head=nn.Linear(16, 4),
    )


@pytest.mark.parametrize(
    "model",
    [
        net(inside=lambda x: functional.dropout(x, 0.2, training=True)),
        net(before=lambda x: x + 0.01 * torch.randn_like(x)),
        net(before=lambda x: x * (1 + random.random())),
    ],
    ids=["dropout left on", "noise", "a number that the trace holds"],
)
def test_a_random_model_is_said_and_not_certified(model: nn.Module) -> None:
    x = torch.randn(440, 6)
    small = fxprune.compress(model, x, flops=0.6, progress=False)
    assert any("the model is random" in note for note in fxprune.report(small).notes)
    with pytest.raises(UnsupportedError, match="cannot be certified: the model is random"):
        fxprune.compress(model, x, progress=False)


def test_a_model_that_gives_the_same_is_not_random() -> None:
    small = fxprune.compress(net(torch.tanh), torch.randn(60, 6), flops=0.6, progress=False)
    assert not any("random" in note for note in fxprune.report(small).notes)


def test_images_of_several_sizes_work_to_the_end() -> None:
    batches = [images(16, seed, size=(8, 12, 9)[seed % 3]) for seed in range(12)]
    report = fxprune.report(fxprune.compress(tiny(), batches, flops=0.5, progress=False))
    assert report.agreement is not None
    assert report.agreement.examples == 192 // 5
    assert report.flops[1] <= 0.5 * report.flops[0]


def test_lengths_that_the_graph_holds_are_named_before_the_work() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.places = nn.Linear(4, 8), nn.Parameter(torch.ones(20, 8))
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            length = int(x.shape[1])
            hidden = torch.relu(self.first(x)) * {5: 1.0, 6: 0.5}[length] + self.places[:length]
            logits: Tensor = self.head(hidden.reshape(len(x), length, 2, 4).flatten(2).mean(1))
            return logits

    batches = [torch.randn(8, 5 + i % 2, 4) for i in range(10)]
    with pytest.raises(CalibrationError, match=r"its example, \(5, 4\), .* on \(6, 4\) it cannot"):
        fxprune.compress(Tokens(), batches, flops=0.6, progress=False)


def test_a_graph_that_gives_something_else_is_not_taken() -> None:
    """Sizes may be held without an error: here the divisor of a sum, the same at the next size."""
    model = Net(lambda net, x: net.head(x).sum(1) / max(int(x.shape[1]), 6), head=nn.Linear(4, 3))
    calibration = Calibration(model, [torch.randn(4, 5, 4), torch.randn(4, 8, 4)])
    captured = capture(model, calibration.example)
    with pytest.raises(CalibrationError, match="gives something else than the model"):
        require_sizes(captured.graph, model, calibration)


def test_sizes_that_the_model_does_not_take_are_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with pytest.raises(CalibrationError, match=r"does not run on the .* sizes \(3, 2, 2\)"):
        fxprune.compress(model, [images(4), images(4, size=2)], flops=0.5, progress=False)


@pytest.mark.slow
def test_batches_of_one_are_traced_as_two() -> None:
    one = [images(1, seed) for seed in range(80)]
    report = fxprune.report(fxprune.compress(tiny(), one, flops=0.5, progress=False))
    assert not any("batch size" in note for note in report.notes)
    calibration = Calibration(tiny(), one)
    assert torch.equal(calibration.example.args[0], torch.cat(one[:2]))
    other = Calibration(tiny(), [images(1), images(1, size=9)])
    assert torch.equal(other.example.args[0], torch.cat([one[0], one[0]]))


@pytest.mark.parametrize("shape", [(4, 3, 8), (8,)], ids=["one axis more", "without batch axis"])
def test_an_example_of_other_axes_than_the_loaders_is_refused(shape: tuple[int, ...]) -> None:
    """Linear layers take any number of axes: the statistics would be of others."""
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    with pytest.raises(CalibrationError, match=r"^example= has a tensor of shape"):
        fxprune.compress(
            net, torch.randn(50, 8), flops=0.5, example=torch.randn(shape), progress=False
        )
