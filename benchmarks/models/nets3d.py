"""3-D convolutional networks on voxel grids of molecules, after ATOM3D's published examples
(Townshend et al. 2021).

Facts of their architecture: [Conv3d 3 without padding, ReLU, MaxPool3d 2 after the second and
fourth, Dropout] x 4, flatten, linear layers.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.models.entry import Entry

WIDTHS = (32, 64, 128, 256)


def features(channels: int, widths: tuple[int, ...] = WIDTHS) -> nn.Sequential:
    """The convolutional base: (N, channels, D, D, D) to (N, flat)."""
    layers: list[nn.Module] = []
    for index, width in enumerate(widths):
        layers += [nn.Conv3d(channels, width, 3), nn.ReLU()]
        layers += [nn.MaxPool3d(2)] if index % 2 else []
        layers += [nn.Dropout(0.1)]
        channels = width
    return nn.Sequential(*layers, nn.Flatten())


def flat(channels: int, side: int, widths: tuple[int, ...] = WIDTHS) -> int:
    """Features that the base gives for grids of `side` voxels."""
    with torch.device("meta"):
        return int(features(channels, widths)(torch.empty(1, channels, side, side, side)).shape[1])


class CNN3D(nn.Module):
    """One branch, one number per structure (ligand binding affinity): (N, channels, side, side,
    side) to (N,).

    At 5 x 41^3 it has 46.1 M parameters, 45 M of them in the first linear layer.
    """

    def __init__(
        self, channels: int = 5, side: int = 41, widths: tuple[int, ...] = WIDTHS, hidden: int = 512
    ):
        super().__init__()
        self.features = features(channels, widths)
        self.head = nn.Sequential(
            nn.Linear(flat(channels, side, widths), hidden),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(hidden, 1),
        )

    def forward(self, grids: Tensor) -> Tensor:
        values: Tensor = self.head(self.features(grids)).view(-1)
        return values


class Paired3D(nn.Module):
    """Two structures, one number: two (N, channels, side, side, side) grids to (N,).

    Args:
        shared: the branches share their weights (siamese), or have their own.
        join: `cat` puts the branches' features beside each other, `subtract` takes their
            difference.
    """

    def __init__(
        self,
        channels: int = 8,
        side: int = 51,
        widths: tuple[int, ...] = WIDTHS,
        hidden: int = 512,
        shared: bool = True,
        join: str = "cat",
    ):
        super().__init__()
        self.join = join

        def branch() -> nn.Sequential:
            return nn.Sequential(
                features(channels, widths),
                nn.Linear(flat(channels, side, widths), hidden),
                nn.ReLU(),
            )

        self.first = branch()
        self.second = self.first if shared else branch()
        joined = 2 * hidden if join == "cat" else hidden
        self.head = nn.Sequential(
            nn.Linear(joined, hidden), nn.ReLU(), nn.Dropout(0.1), nn.Linear(hidden, 1)
        )

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = self.first(left), self.second(right)
        values: Tensor = self.head(torch.cat([a, b], 1) if self.join == "cat" else a - b).view(-1)
        return values


def models() -> Iterator[Entry]:
    """One and two branches, weights shared and separate, joined and subtracted, at the published
    grid of 5 x 41^3 or a smaller one.
    """
    yield Entry("cnn3d", "atom3d", lambda: (CNN3D(), torch.randn(2, 5, 41, 41, 41)))
    for shared in (True, False):
        for join in ("cat", "subtract"):
            name = f"{'siamese' if shared else 'separate'}-{join}"

            def build(
                shared: bool = shared, join: str = join
            ) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
                net = Paired3D(5, 25, (16, 32, 64, 128), 128, shared=shared, join=join)
                return net, (torch.randn(2, 5, 25, 25, 25), torch.randn(2, 5, 25, 25, 25))

            yield Entry(name, "atom3d", build)
