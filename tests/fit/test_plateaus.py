"""What the activation behind a layer cannot tell apart."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.fit.plateaus import Plateaus, flat_behind, plateaus_behind
from fxprune.label.layers import Layer, own_layers
from tests.fit.reductions import record
from tests.tensors import normal

BOUNDS: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "relu": (F.relu, 0.0, math.inf),
    "relu in place": (lambda x: F.relu(x, inplace=True), 0.0, math.inf),
    "relu6": (F.relu6, 0.0, 6.0),
    "hardtanh": (F.hardtanh, -1.0, 1.0),
    "hardtanh of its own bounds": (lambda x: F.hardtanh(x, -2.0, 0.5), -2.0, 0.5),
    "clamp": (lambda x: x.clamp(-1, 3), -1.0, 3.0),
    "clamp from below": (lambda x: x.clamp(min=0.25), 0.25, math.inf),
    "clamp from above": (lambda x: x.clamp(max=0.25), -math.inf, 0.25),
    "hardsigmoid": (F.hardsigmoid, -3.0, 3.0),
    "hardswish": (F.hardswish, -3.0, math.inf),
    "threshold": (lambda x: F.threshold(x, 0.5, -1.0), 0.5, math.inf),
}


class Behind(nn.Module):
    """A layer, and what follows it."""

    def __init__(self, then: Callable[[Tensor], Tensor]):
        super().__init__()
        self.layer, self.then = nn.Linear(3, 8), then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.layer(x))


def layer_of(then: Callable[[Tensor], Tensor]) -> Layer:
    graph = capture(Behind(then).double().eval(), make_batch((normal(2, 3),), {})).graph
    (layer,) = own_layers(graph).values()
    return layer


@pytest.mark.parametrize("kind", BOUNDS)
def test_an_activation_is_flat_where_it_says(kind: str) -> None:
    then, low, high = BOUNDS[kind]
    found = flat_behind(layer_of(then))
    assert found is not None
    assert found[1] == (low, high)
    for end, way in ((low, -1), (high, 1)):
        if math.isfinite(end):
            beyond = end + way * torch.linspace(0, 9, 50, dtype=torch.float64)
            assert then(beyond.clone()).unique().numel() == 1


@pytest.mark.parametrize(
    "then",
    [F.gelu, F.leaky_relu, lambda x: x + x.relu(), lambda x: x.clamp(x.mean()), lambda x: x],
    ids=["gelu", "leaky_relu", "read twice", "bounds from data", "the output"],
)
def test_nothing_is_taken_for_flat_that_may_not_be(then: Callable[[Tensor], Tensor]) -> None:
    assert flat_behind(layer_of(then)) is None


def test_aims_are_the_nearest_outputs_that_make_no_difference() -> None:
    """Through scales of either sign, and of zero; where the activation is not flat, the target."""
    behind = Plateaus(torch.tensor([2.0, -1.0, 0.0]), torch.tensor([1.0, 0.5, 4.0]), 0.0, 6.0)
    target, given = 4 * normal(500, 3, seed=1), 4 * normal(500, 3, seed=2)
    target, given = target.double(), given.double()
    aims = behind.nearest(target, given)
    for channel in range(3):
        scale, offset = float(behind.scale[channel]), float(behind.offset[channel])
        seen = [F.relu6(scale * x[:, channel] + offset) for x in (target, aims)]
        torch.testing.assert_close(*seen)
        flat = (seen[0] == 0) | (seen[0] == 6) | (scale == 0)
        assert flat.any()
        torch.testing.assert_close(aims[~flat, channel], target[~flat, channel])
        far = (given - aims)[:, channel].abs(), (given - target)[:, channel].abs()
        assert bool((far[0] <= far[1] + 1e-12).all())
        alike = F.relu6(scale * given[:, channel] + offset) == seen[0]
        torch.testing.assert_close(aims[alike & flat, channel], given[alike & flat, channel])


@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_between_is_part_of_it(bias: bool) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=bias), norm, nn.ReLU6(), nn.Conv2d(8, 5, 1), nn.BatchNorm2d(5)
    )
    with torch.no_grad():
        for own in norm.state_dict().values():
            own.copy_(torch.rand(own.shape) + 0.5)
    case = record(net.double(), normal(50, 3, 4, 4), share=0.5)
    first, last = own_layers(case.reduction.original).values()
    found = plateaus_behind(first, case.reduction)
    assert found is not None
    assert (found.low, found.high) == (0.0, 6.0)
    x = normal(20, 8, 1, 1, seed=3)
    with torch.no_grad():
        expected = norm(x)[:, :4, 0, 0]
    torch.testing.assert_close(found.scale * x[:, :4, 0, 0] + found.offset, expected)
    assert plateaus_behind(last, case.reduction) is None
