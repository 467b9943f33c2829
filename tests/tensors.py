"""Random tensors and how far two of them are apart."""

import torch
from torch import Tensor

EXACT = 1e-10
"""Relative difference that double precision leaves."""


def distance(expected: Tensor, found: Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    assert expected.shape == found.shape
    return float((expected - found).abs().max() / expected.abs().max().clamp_min(1e-30))


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
