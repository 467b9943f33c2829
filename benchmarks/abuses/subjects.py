"""The tiny model that is abused, its data, and every public call as it is meant to be made."""

import copy
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxprune


def model() -> nn.Module:
    """Three linear layers on (N, 6), always with the same weights, in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))
        )


def rows(count: int = 40) -> Tensor:
    """(count, 6)."""
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(0))


def loader() -> list[Tensor]:
    """Two batches of 20."""
    return list(rows().split(20))


def number() -> int:
    """For the command line: a factory of something else."""
    return 3


def failing() -> nn.Module:
    """For the command line: a factory that fails."""
    raise OSError("no such weights\nanywhere")


@lru_cache
def _small() -> nn.Module:
    return fxprune.compress(model(), loader(), flops=0.6, method="magnitude", progress=False)


def small() -> nn.Module:
    """What `compress` made of the model; a copy."""
    return copy.deepcopy(_small())


def plan() -> fxprune.Plan:
    """That it was made by."""
    return fxprune.plan_of(_small())


def saved(folder: Path) -> Path:
    """A file that `fxprune.save` wrote."""
    path = folder / "saved.safetensors"
    if not path.exists():
        fxprune.save(small(), path)
    return path


Arguments = dict[str, Any]
_DATA: Callable[[], Arguments] = lambda: {"model": model(), "calib_loader": loader()}  # noqa: E731
_FAST: Arguments = {"progress": False, "method": "magnitude"}


def calls(folder: Path) -> dict[str, Callable[[], Arguments]]:
    """Every public function -> the keywords of a call that works."""
    return {
        "compress": lambda: {**_DATA(), "flops": 0.6, **_FAST},
        "plan": lambda: {**_DATA(), "flops": 0.6, **_FAST},
        "sweep": lambda: {**_DATA(), "budgets": (0.6,), **_FAST},
        "apply": lambda: {**_DATA(), "plan": plan(), "progress": False},
        "factorize": lambda: {**_DATA(), "params": 0.8, "method": "svd", "progress": False},
        "analyze": lambda: {"model": model(), "example": rows(2)},
        "benchmark": lambda: {
            **{"small": small(), "original": model(), "example": rows(2), "batches": (1,)},
            **{"modes": ("eager",), "rounds": 1, "seconds": 0.0},
        },
        "masked": lambda: {"model": model(), "small": small()},
        "report": lambda: {"small": small()},
        "plan_of": lambda: {"small": small()},
        "plot": lambda: {"what": {0.6: small()}},
        "save": lambda: {"small": small(), "path": folder / "written.safetensors"},
        "load": lambda: {"path": saved(folder), "into": model()},
        "Workload": lambda: {},
        "Plan.from_json": lambda: {"text": plan().to_json()},
        "Report.from_json": lambda: {"text": fxprune.report(small()).to_json()},
    }
