"""Sums over pieces against the products of all rows."""

import pytest
import torch
from torch import Tensor

import fxprune.linalg.gram as products
from fxprune.linalg.regression_sums import (
    COVARIANCE_SHRINKAGE,
    RegressionAccumulator,
    RegressionSums,
)
from tests.tensors import normal


@pytest.mark.parametrize("library", [True, False], ids=["oneDNN", "MKL"])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("features", [5, 64, 150])
def test_sums_over_pieces_are_the_moments(
    library: bool, groups: int, features: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "ONEDNN", library and products.ONEDNN)
    generator = torch.Generator().manual_seed(features)
    p, y = (torch.randn(groups, 300, n, generator=generator) + 0.5 for n in (features, 7))
    sums = RegressionAccumulator()
    assert sums.total() is None
    for a, b in zip(p.split(130, 1), y.split(130, 1), strict=True):
        sums.add(a, b)
    found = sums.total()
    assert found is not None
    assert found.count == 300
    p, y = p.double(), y.double()
    for given, wanted in (
        (found.p, p.sum(1)),
        (found.y, y.sum(1)),
        (found.pp, p.mT @ p),
        (found.py, p.mT @ y),
        (found.yy, y.square().sum(1)),
    ):
        torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-3)


def sums_of(p: Tensor, y: Tensor) -> RegressionSums:
    """Of one group."""
    accumulator = RegressionAccumulator()
    accumulator.add(p[None], y[None])
    found = accumulator.total()
    assert found is not None
    return found


def test_sums_of_both_parts_are_the_sums_of_all() -> None:
    p, y = normal(50, 4, seed=1), normal(50, 3, seed=2)
    both, whole = sums_of(p[:20], y[:20]) + sums_of(p[20:], y[20:]), sums_of(p, y)
    assert both.count == whole.count == 50
    for name in ("p", "y", "pp", "py", "yy"):
        torch.testing.assert_close(getattr(both, name), getattr(whole, name))


def test_centered_sums_are_those_of_centered_rows() -> None:
    p, y = normal(50, 4, seed=1) + 3, normal(50, 3, seed=2) - 2
    found, wanted = sums_of(p, y).centered(), sums_of(p - p.mean(0), y - y.mean(0))
    for name in ("pp", "py", "yy"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name))


def test_residual_is_the_squared_error() -> None:
    p, y, weight = normal(50, 4, seed=1), normal(50, 3, seed=2), normal(1, 3, 4, seed=3)
    wanted = float((y - p @ weight[0].T).square().sum())
    assert sums_of(p, y).residual(weight) == pytest.approx(wanted)
    assert sums_of(p, p @ weight[0].T).residual(weight) == pytest.approx(0, abs=1e-9)


def test_covariance_of_outputs_is_shrunk_by_features_per_row() -> None:
    """W C W^T with the diagonal of C, the features' covariance, a little larger."""
    p, weight = normal(50, 4, seed=1) + 1, normal(1, 3, 4, seed=3)
    covariance, mean = sums_of(p, normal(50, 3)).outputs(weight)
    own = torch.cov(p.T, correction=0)
    own = own + COVARIANCE_SHRINKAGE * 4 / 50 * own.diagonal().diag()
    torch.testing.assert_close(covariance[0], weight[0] @ own @ weight[0].T)
    torch.testing.assert_close(mean[0], weight[0] @ p.mean(0))
