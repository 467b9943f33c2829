"""Layer scale becomes part of the layers; what something else reads too stays."""

import pytest
import torch
from torch import Tensor, nn

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.graph.operators import operator_name
from fxprune.label.analysis import analyze_graph
from fxprune.passes import FoldScales
from tests.passes.test_reduce_channels import distance


class Scaled(nn.Module):
    """A linear layer with a factor per output on either side, dropout between."""

    def __init__(self, bias: bool = True):
        super().__init__()
        self.up, self.down, self.drop = nn.Linear(5, 6), nn.Linear(6, 5, bias), nn.Dropout(0.1)
        self.scale = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.scale * self.drop(self.down(torch.relu(self.up(x))))
        return y


class Plain(Scaled):
    """Without a bias, and the factor behind."""

    def __init__(self) -> None:
        super().__init__(bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(torch.relu(self.up(x))) * self.scale
        return y


class ReadTwice(Scaled):
    """What is scaled is read as it is, too."""

    def forward(self, x: Tensor) -> Tensor:
        given = self.down(torch.relu(self.up(x)))
        y: Tensor = given + self.scale * given
        return y


class ScaledTwice(Scaled):
    """The factors are those of two products."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.scale * self.down(torch.relu(self.up(self.scale * x)))
        return y


class ByToken(Scaled):
    """A factor per position."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.scale[:, None] * self.down(torch.relu(self.up(x)))
        return y


def folded(net: nn.Module) -> tuple[int, dict[str, float]]:
    """Products that are left, and what was folded; the outputs are the same."""
    x = torch.randn(2, 5, 5, dtype=torch.float64)
    captured = capture(net.double().eval(), make_batch((x,), {}))
    rewrite = FoldScales(analyze_graph(captured.graph, len(x)))
    with torch.no_grad():
        wanted = captured.graph(x)
        module = rewrite(captured.graph).graph_module
        assert distance(wanted, module(x)) <= 1e-12
    left = sum(operator_name(n.target) == "aten.mul" for n in module.graph.nodes)
    return left, rewrite.folded


@pytest.mark.parametrize("kind", [Scaled, Plain], ids=lambda kind: kind.__name__)
def test_a_scale_goes_into_the_layer(kind: type[nn.Module]) -> None:
    assert folded(kind()) == (0, {"scale": 1.0})


@pytest.mark.parametrize("kind", [ReadTwice, ScaledTwice, ByToken], ids=lambda kind: kind.__name__)
def test_what_is_read_elsewhere_or_scales_otherwise_stays(kind: type[nn.Module]) -> None:
    left, found = folded(kind())
    assert left
    assert not found
