"""How fast the machine does what compressing is made of, measured in a fraction of a second."""

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import cache

import torch

from fxprune.linalg.gram import gram

FEATURES, ACCELERATED, CALLS = 384, 1024, 200
"""Of the products that are timed, on a CPU and on an accelerator, for which small ones are hardly
less work than larger ones; and calls on a single value.
"""


@dataclass(frozen=True)
class Work:
    """Operations by kind.

    Attributes:
        examples: that go through the whole original, or their like.
        products: FLOPs of products of observed rows, in single precision.
        solves: FLOPs of factorizations and products in double precision.
        moved: values that are gathered one by one.
        calls: of operators on next to nothing.
    """

    examples: float = 0.0
    products: float = 0.0
    solves: float = 0.0
    moved: float = 0.0
    calls: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Work(*(own + added for own, added in pairs))

    def times(self, count: float) -> "Work":
        """The same, so many times."""
        return Work(*(count * own for own in astuple(self)))


@dataclass(frozen=True)
class Speeds:
    """Seconds for one of each kind, as measured here and now.

    Attributes:
        example, product, solve, move, call: of `Work`'s kinds.
    """

    example: float
    product: float
    solve: float
    move: float
    call: float

    def seconds(self, work: Work) -> float:
        """What work takes."""
        return float(sum(a * b for a, b in zip(astuple(work), astuple(self), strict=True)))


@torch.no_grad()
def measure_speeds(forward: Callable[[], object], examples: int, device: torch.device) -> Speeds:
    """Time a forward pass, and products, factorizations and gathers of a few hundred features.

    Args:
        forward: runs so many examples.
        examples: how many.
        device: where they are.
    """
    example = _fastest(forward, device) / examples
    return Speeds(example, *_speeds_of(device, torch.get_num_threads()))


@cache
def _speeds_of(device: torch.device, threads: int) -> tuple[float, float, float, float]:
    """Of products, solves, gathers and calls, by the number of threads."""
    features = FEATURES if device.type == "cpu" else ACCELERATED
    count = 4 * features
    rows = torch.randn(count, features, device=device)
    square = gram(rows).double()
    square.diagonal().add_(1.0)
    little = rows[:1, :1].clone()
    at = torch.randint(count, (4 * count,), device=device)
    return (
        _fastest(lambda: gram(rows), device) / (count * features**2),
        _fastest(lambda: torch.linalg.cholesky_ex(square), device) / (features**3 / 3),
        _fastest(lambda: rows.index_select(0, at), device) / (len(at) * features),
        _fastest(lambda: [little + little for _ in range(CALLS)], device) / CALLS,
    )


def _fastest(call: Callable[[], object], device: torch.device, times: int = 2) -> float:
    """Seconds of the fastest of a few calls; the first may warm up."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - start)
    return min(found)
