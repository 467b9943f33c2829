"""A network that loses decisions when it is compressed, its examples, and scripts that train."""

import copy
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import fxprune

EXAMPLES = 600


def classifier() -> nn.Module:
    """Three layers on (N, 12), five classes, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(12, 48), nn.Linear(48, 48), nn.Linear(48, 5)]
        for layer in layers:
            nn.init.normal_(layer.weight, std=2 / layer.in_features**0.5)
    first, second, last = layers
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last).eval()


def inputs(count: int = EXAMPLES, seed: int = 0) -> Tensor:
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))


def examples() -> list[Tensor]:
    return list(inputs().split(100))


@lru_cache
def _compressed(method: str, flops: float) -> GraphModule:
    return fxprune.compress(
        classifier(), examples(), flops=flops, method=method, decision="argmax", progress=False
    )


def compressed(method: str = "uniform", flops: float = 0.4) -> GraphModule:
    """What `compress` makes of it, a copy of the caller's own."""
    return copy.deepcopy(_compressed(method, flops))


def recovered(small: nn.Module, data: Any = None, **options: Any) -> GraphModule:
    """`recover` of it."""
    given = {"steps": 150, "decision": "argmax", "progress": False, **options}
    data = examples() if data is None else data
    return fxprune.recover(small, classifier(), data, **given)


def agreement(small: nn.Module) -> float:
    """On examples that nothing has seen."""
    fresh = inputs(4000, seed=9)
    with torch.no_grad():
        same = classifier()(fresh).argmax(1) == small(fresh).argmax(1)
    return float(same.float().mean())
