"""Quiet warnings; a saved file, and what it holds."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import fxprune


@pytest.fixture(autouse=True)
def quiet() -> None:
    warnings.simplefilter("ignore")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "small.safetensors"
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 4),
    )
    fxprune.save(
        fxprune.compress(
            net, torch.randn(64, 1, 8, 8), flops=0.5, method="magnitude", progress=False
        ),
        path,
    )
    return path.read_bytes()


@pytest.fixture
def like(saved: bytes, tmp_path: Path) -> GraphModule:
    (tmp_path / "good.safetensors").write_bytes(saved)
    return fxprune.load(tmp_path / "good.safetensors")
