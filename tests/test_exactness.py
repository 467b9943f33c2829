"""Exactly redundant channels, planted, are exactly what goes; the outputs stay."""

import pytest
import torch
from torch import Tensor, nn

import fxprune


class Plain(nn.Module):
    """Two convolutions, a linear layer behind a flatten, and a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(10, 10, 3, padding=1)
        self.c, self.d = nn.Linear(10 * 4, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x))))
        out: Tensor = self.d(torch.relu(self.c(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))))
        return out


class Residual(nn.Module):
    """A stem and two residual blocks on one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.inner = nn.ModuleList(nn.Conv2d(10, 8, 3, padding=1) for _ in range(2))
        self.outer = nn.ModuleList(nn.Conv2d(8, 10, 3, padding=1) for _ in range(2))
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = torch.relu(x + outer(torch.relu(inner(x))))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class Concat(nn.Module):
    """Two branches side by side, read by one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1)
        self.join, self.head = nn.Conv2d(16, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(torch.cat([self.left(x), self.right(x)], 1))
        out: Tensor = self.head(torch.relu(self.join(x)).mean((2, 3)))
        return out


class Volume(nn.Module):
    """Two 3-D convolutions with a pool between and a linear layer behind a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(3, 8, 3), nn.Conv3d(8, 8, 1)
        self.c = nn.Linear(8 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool3d(torch.relu(self.a(x)), 2)
        out: Tensor = self.c(torch.relu(self.b(x)).flatten(1))
        return out


def balanced(net: nn.Module) -> nn.Module:
    """Every unit's weights sum to zero, so that on positive inputs none is always off (and
    redundant by chance).
    """
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, (nn.Conv2d, nn.Conv3d, nn.Linear)):
                layer.weight -= (
                    layer.weight.flatten(1).mean(1).view(-1, *[1] * (layer.weight.dim() - 1))
                )
                assert layer.bias is not None
                layer.bias.mul_(0.1)
    return net.double().eval()


def plant(net: nn.Module, *names: str) -> None:
    """Rows 1 and 4 of these layers become positive multiples of rows 0 and 2; a ReLU leaves them
    multiples.
    """
    for name in names:
        layer = net.get_submodule(name)
        with torch.no_grad():
            for tensor in layer.parameters():
                tensor[1], tensor[4] = 2.5 * tensor[0], 0.4 * tensor[2]


PLANTED: dict[type[nn.Module], tuple[tuple[str, ...], ...]] = {
    Plain: (("a",), ("b",), ("c",)),
    Residual: (("stem", "outer.0", "outer.1"), ("inner.0",)),
    Concat: (("left",), ("right",), ("join",)),
    Volume: (("a",), ("b",)),
}


@pytest.mark.parametrize("kind", PLANTED, ids=lambda k: k.__name__)
def test_loses_exactly_the_planted_channels(kind: type[nn.Module]) -> None:
    torch.manual_seed(1)
    net = balanced(kind())
    for layers in PLANTED[kind]:
        plant(net, *layers)
    x = torch.randn(200, 3, *([6] * (3 if kind is Volume else 2)), dtype=torch.float64)
    small = fxprune.compress(net, x, flops=1.0, progress=False)
    first = {layers[0] for layers in PLANTED[kind]}
    for row in fxprune.report(small).groups:
        planted = 2 if row.name.removesuffix(".weight") in first else 0
        assert row.after == row.before - planted, row.name
    fresh = torch.randn(32, *x.shape[1:], dtype=torch.float64)
    with torch.no_grad():
        reference = net(fresh)
        assert float((small(fresh) - reference).abs().max() / reference.abs().max()) < 1e-6


def test_linear_combinations_go_where_nothing_bends_them() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(6, 6, 3), nn.Conv1d(6, 4, 3)).double().eval()
    with torch.no_grad():
        for tensor in net[0].parameters():
            tensor[5] = tensor[0] - 3 * tensor[2] + 0.5 * tensor[3]
    x = torch.randn(64, 6, 12, dtype=torch.float64)
    small = fxprune.compress(net, x, flops=1.0, progress=False)
    (row,) = fxprune.report(small).groups
    assert (row.before, row.after) == (6, 5)
    with torch.no_grad():
        torch.testing.assert_close(small(x), net(x), rtol=0, atol=1e-6 * float(net(x).abs().max()))
