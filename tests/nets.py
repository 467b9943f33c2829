"""Tiny networks and loaders that the tests name, also by `package.module:factory`."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.options import Options
from fxprune.plans.budget import Budget
from fxprune.progress import Journal
from fxprune.session import Session, open_session


class Tiny(nn.Module):
    """Two convolutions and two linear layers on (N, 3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 3, padding=1),
        )
        self.hidden, self.head = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.norm(self.first(x)))))
        logits: Tensor = self.head(torch.relu(self.hidden(x.mean((2, 3)))))
        return logits


def tiny() -> nn.Module:
    """The tiny network, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tiny().eval()


def images(count: int, seed: int = 0, size: int = 8) -> Tensor:
    """Random images (count, 3, size, size)."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def loader() -> list[Tensor]:
    """Four batches of 32."""
    return list(images(128).split(32))


def not_a_model() -> int:
    """For errors."""
    return 3


class Stream:
    """Batches that exist only while they are read.

    Args:
        batches: how many.
        make: the batch of a number.
    """

    def __init__(self, batches: int, make: Callable[[int], Tensor]):
        self._batches, self._make = batches, make

    def __iter__(self) -> Iterator[Tensor]:
        return (self._make(i) for i in range(self._batches))


def session_of(model: nn.Module, batches: Any, **options: Any) -> Session:
    """A model with its calibration data, captured and split, without a budget of its own."""
    chosen = {"budget": Budget(flops=1.0), "round_to": 1, "progress": False, **options}
    return open_session(model, batches, Options(**chosen), Journal(False))


class Net(nn.Module):
    """Named layers and a forward over them, written where a test says what it tests."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: nn.Module):
        super().__init__()
        self._forward = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)
