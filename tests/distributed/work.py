"""What ranks do in the tests; spawned processes import it."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import fxprune
from tests import rotations
from tests.distributed.ranks import digest
from tests.nets import images, tiny

SETTINGS: dict[str, Any] = {"flops": 0.5, "progress": False, "decision": "argmax"}


def perceptron() -> nn.Module:
    """Three linear layers on (N, 3, 8, 8)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(192, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 4)
        )


def transformer() -> nn.Module:
    """An attention on (N, 6, 16)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return rotations.encoder()


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], list[Tensor]]]] = {
    "convolutions": (tiny, lambda: list(images(210).split(25))),
    "perceptron": (perceptron, lambda: list(images(150).split(32))),
    "transformer": (
        transformer,
        lambda: list(rotations.examples(rotations.encoder, 120).float().split(40)),
    ),
    "few": (tiny, lambda: list(images(14).split(4))),
}
"""Models and examples; the last are too few for every rank to have some of each part."""


def compress(name: str) -> str:
    """The digest of one of the networks, compressed."""
    net, examples = NETS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return digest(fxprune.compress(net(), examples(), **SETTINGS))


class Repeated(TensorDataset):
    """Images of which the last ones repeat the first."""


def dealt(rank: int, ranks: int) -> DataLoader[Any]:
    """A loader that shuffles and gives each rank its share; the last ones are padded."""
    data = TensorDataset(images(101))
    sampler = DistributedSampler(data, ranks, rank, shuffle=True, seed=3)
    return DataLoader(data, batch_size=16, sampler=sampler)


def run(loader: Any, **options: Any) -> str:
    """The digest of the tiny network, compressed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return digest(fxprune.compress(tiny(), loader, **SETTINGS, **options))


def all_nets(rank: int, ranks: int) -> dict[str, str]:
    """Digests of all, and of loaders that are dealt out or give another order on every rank."""
    found = {name: compress(name) for name in NETS}
    found["dealt"] = run(dealt(rank, ranks))
    return found
