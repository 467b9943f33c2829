"""Compressed models of every calling convention, and inputs for them."""

import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

import fxprune
from tests.nets import Net, images, loader, tiny


class Pair(NamedTuple):
    """A named output."""

    scores: Tensor
    hidden: Tensor


@dataclass
class Found:
    """A dataclass output."""

    logits: Tensor
    hidden: Tensor


torch.export.register_dataclass(Found)


class Shaped(nn.Module):
    """Nested and keyword inputs; the output is of the kind asked for."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.first, self.second, self.head = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 4)
        self.register_buffer("shift", torch.zeros(4), persistent=False)

    def forward(self, x: Tensor, pair: dict[str, Tensor], *, mask: Tensor) -> Any:
        hidden = torch.relu(self.first(x + pair["a"] * pair["b"]))
        hidden = torch.relu(self.second(hidden)) * mask
        scores = self.head(hidden) + self.shift
        makers: dict[str, Callable[[], Any]] = {
            "dict": lambda: {"scores": scores, "rest": [hidden, (scores * 2,)]},
            "ordered": lambda: OrderedDict(b=scores, a=hidden),
            "named": lambda: Pair(scores, hidden),
            "dataclass": lambda: Found(scores, hidden),
        }
        return makers[self.kind]()


def shaped_batch(count: int) -> dict[str, Any]:
    made = torch.randn(4, count, 6, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(count, 1)
    return {"x": made[0], "pair": {"a": made[1], "b": made[2]}, "mask": mask}


class Siamese(nn.Module):
    """Two inputs through one branch."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        difference: Tensor = self.branch(a) - self.branch(b)
        return difference


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
    head = nn.Linear(16, 4)
    return Net(lambda net, x: net.head(net.block(x).mean(1)), block=layer, head=head)


Case = tuple[GraphModule, tuple[Any, ...], dict[str, Any]]


@lru_cache
def made(name: str) -> Case:
    """A compressed model, and positional and keyword inputs for it."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(64, 6, generator=generator)
    tokens = torch.randn(64, 5, 16, generator=generator)
    nets: dict[str, tuple[Callable[[], nn.Module], Any, tuple[Any, ...], dict[str, Any]]] = {
        "cnn": (tiny, loader(), (images(4),), {}),
        "siamese": (Siamese, [{"a": rows, "b": rows.flip(0)}], (), {"a": rows, "b": rows.flip(0)}),
        "encoder": (encoder, [tokens], (tokens[:7],), {}),
    }
    for kind in ("dict", "ordered", "named", "dataclass"):
        nets[kind] = (lambda k=kind: Shaped(k), [shaped_batch(64)], (), shaped_batch(5))  # type: ignore[misc]
    make, data, args, kwargs = nets[name]
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        net = make().eval()
        small = fxprune.compress(net, data, flops=0.6, method="uniform", progress=False)
    return small, args, kwargs


NAMES = ("cnn", "dict", "ordered", "named", "dataclass", "siamese", "encoder")


def equal(a: Any, b: Any) -> None:
    """Bit-identical, and of the same kinds all the way down."""
    leaves_a, spec_a = pytree.tree_flatten(a)
    leaves_b, spec_b = pytree.tree_flatten(b)
    assert spec_a == spec_b
    assert type(a) is type(b)
    for x, y in zip(leaves_a, leaves_b, strict=True):
        assert torch.equal(x, y)
