"""What ranks do in the tests; spawned processes import it."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import fxprune
from fxprune.calibrate.spill import Spill
from tests import rotations, streams
from tests.distributed.ranks import digest
from tests.language import CausalLM, texts
from tests.nets import images, tiny

SETTINGS: dict[str, Any] = {"flops": 0.5, "progress": False, "decision": "argmax"}


def perceptron() -> nn.Module:
    """Three linear layers on (N, 3, 8, 8)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(192, 24),
            nn.ReLU(),
            nn.Linear(24, 12),
            nn.ReLU(),
            nn.Linear(12, 4),
        )


def transformer() -> nn.Module:
    """An attention on (N, 6, 16)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return rotations.encoder()


def run(loader: Any, net: Callable[[], nn.Module] = tiny, **options: Any) -> str:
    """The digest of a network, compressed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return digest(fxprune.compress(net(), loader, **SETTINGS | options))


def dealt(rank: int, ranks: int) -> DataLoader[Any]:
    """A loader that shuffles and gives each rank its share; the last ones are padded."""
    data = TensorDataset(images(101))
    sampler: DistributedSampler[Any] = DistributedSampler(data, ranks, rank, seed=3)
    return DataLoader(data, batch_size=16, sampler=sampler)


def shuffled(rank: int) -> list[Tensor]:
    """The same images on every rank, in another order; the first rank has theirs."""
    order = torch.randperm(101, generator=torch.Generator().manual_seed(rank))
    return list(images(101)[order if rank else torch.arange(101)].split(16))


def runs(rank: int, ranks: int) -> list[Tensor]:
    """One run of the images for each rank; the first has nothing where there are several."""
    own = images(101).tensor_split(max(ranks - 1, 1))
    return list(own[rank - (ranks > 1)].split(16)) if rank or ranks == 1 else []


def sequences() -> list[Tensor]:
    """For the transformer."""
    return list(rotations.examples(rotations.encoder, 120).float().split(40))


def padded(rank: int, ranks: int) -> list[dict[str, Tensor]]:
    """Texts of several lengths, dealt out."""
    every = [texts([5, 8, 9, 7], padded_to=10, seed=seed) for seed in range(24)]
    return every[rank * 24 // ranks : (rank + 1) * 24 // ranks]


@contextmanager
def nothing_held(wanted: bool) -> Iterator[None]:
    """Sums and samples all lie in files."""
    with pytest.MonkeyPatch.context() as patch:
        if wanted:
            patch.setattr(Spill, "_takes", lambda store, size: not size)
        yield


def compress(rank: int, ranks: int) -> dict[str, str]:
    """Digests of several networks, from loaders of every kind. What is known of some of them is
    held in memory by one process alone.
    """
    found = {"the same": run(sequences(), transformer)}
    with nothing_held(ranks > 1):
        batches = list(streams.inputs().split(24))
        found["dealt out"] = run(dealt(rank, ranks))
        found["streams"] = run(batches, streams.net)
    if ranks == 2:
        return found
    found["padded"] = run(padded(rank, ranks), CausalLM, decision=None)
    certified = {"agreement": 0.9, "flops": None, "effort": 1}
    found["in another order"] = run(shuffled(rank), perceptron, **certified)
    found["one run each"] = run(runs(rank, ranks), perceptron, effort=1)
    return found


class Breaks:
    """A loader that fails after one batch on one rank."""

    def __init__(self, here: bool):
        self.here = here

    def __iter__(self) -> Iterator[Tensor]:
        yield images(16)
        if self.here:
            raise OSError("the disk is gone")
        yield images(16, seed=1)


def errors(rank: int, ranks: int) -> dict[str, str]:
    """What is raised where one rank fails, or all."""
    last = rank == ranks - 1

    def fails(reference: Tensor, output: Tensor) -> Tensor:
        if last and not torch.equal(reference, output):
            raise ValueError("no decision")
        return reference.argmax(1) == output.argmax(1)

    def other() -> nn.Module:
        net = tiny()
        net.get_parameter("head.bias").data.add_(rank)
        return net

    calls: dict[str, Callable[[], str]] = {
        "loader": lambda: run(Breaks(last)),
        "decision": lambda: run(list(images(60).split(3)), decision=fails),
        "all": lambda: run(list(images(60).split(16)), flops=0.0001),
        "weights": lambda: run(list(images(60).split(16)), other),
        "options": lambda: run(list(images(60).split(16)), seed=rank),
    }
    found = {}
    for name, call in calls.items():
        try:
            found[name] = call()
        except fxprune.FxpruneError as error:
            found[name] = f"{type(error).__name__}: {error}"
    with fxprune.alone():
        found["alone"] = run(list(images(60, seed=rank).split(16)))
    return found


def everything(rank: int, ranks: int) -> tuple[dict[str, str], dict[str, str]]:
    """All of that; what fails leaves the group as it was."""
    failed = errors(rank, ranks) if ranks > 2 else {}
    return failed, compress(rank, ranks)
