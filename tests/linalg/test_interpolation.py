"""The interpolation against least squares."""

import numpy as np
import pytest
import torch

from fxprune.linalg.interpolation import interpolation, precision_of, ridge_for, solve_ridge
from tests.linalg.matrices import COLUMNS, ROWS, matrix


@pytest.mark.parametrize("condition", [1e1, 1e3])
def test_interpolation_is_least_squares(condition: float) -> None:
    x, kept = matrix(condition), np.array([7, 2, 9, 4])
    found = interpolation(x.T @ x, kept, ridge=1e-14)
    wanted = np.linalg.lstsq(x[:, kept], x, rcond=None)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-7 * max(1, np.abs(wanted).max()))
    np.testing.assert_array_equal(found[:, kept], np.eye(4))


def test_interpolation_survives_dependent_kept_columns() -> None:
    x = matrix(10)
    x[:, 3] = 2 * x[:, 5]
    found = interpolation(x.T @ x, np.array([3, 5, 0]), ridge=1e-13)
    assert np.isfinite(found).all()
    best = np.linalg.lstsq(x[:, [5, 0]], x, rcond=None)[0]
    residual = np.linalg.norm(x - x[:, [3, 5, 0]] @ found)
    assert residual <= np.linalg.norm(x - x[:, [5, 0]] @ best) * (1 + 1e-4)


def test_what_few_rows_rebuild_is_shrunk_all_the_same() -> None:
    """As many kept columns as rows rebuild any column of these rows exactly, and none of others."""
    generator = np.random.default_rng(0)
    x, other = generator.standard_normal((2, 40, 60))
    gram, kept = x.T @ x, np.arange(45)
    believed, shrunk = (
        interpolation(gram, kept, 0.1, 1e-7),
        interpolation(gram, kept, 0.1, 1e-7, rows=40),
    )
    np.testing.assert_allclose(x[:, kept] @ believed, x, atol=1e-3)
    assert (
        np.square(other - other[:, kept] @ shrunk).sum()
        < 0.7 * np.square(other - other[:, kept] @ believed).sum()
    )
    dependent = np.concatenate([x, x[:, :1]], 1)
    found = interpolation(dependent.T @ dependent, np.arange(10), 0.1, 1e-7, rows=40)
    np.testing.assert_allclose(found[:, 60], np.eye(10)[0], atol=1e-4)


def test_what_proves_nothing_is_not_solved_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where as many columns are kept as there are rows, no column is known to depend on them."""
    ridges: list[float] = []

    def counted(a: np.ndarray, b: np.ndarray, ridge: float) -> np.ndarray:
        ridges.append(ridge)
        return solve_ridge(a, b, ridge)

    monkeypatch.setattr("fxprune.linalg.interpolation.solve_ridge", counted)
    x = np.random.default_rng(0).standard_normal((40, 60))
    for rows, tried in ((40, [0.1]), (1000, [0.1, 1e-7])):
        ridges.clear()
        interpolation(x.T @ x, np.arange(45), 0.1, 1e-7, rows=rows)
        assert ridges == tried


def test_ridge_with_a_prior_tends_to_the_prior() -> None:
    x, prior = matrix(10), np.random.default_rng(2).standard_normal((COLUMNS, 3))
    gram, right = x.T @ x, x.T @ np.random.default_rng(3).standard_normal((ROWS, 3))
    np.testing.assert_allclose(solve_ridge(gram, right, 1e9, prior), prior, atol=1e-6)
    np.testing.assert_allclose(
        solve_ridge(gram, right, 0.0, prior), np.linalg.solve(gram, right), rtol=1e-8
    )


def test_dead_columns_stay_out_of_the_interpolation() -> None:
    """Columns that are zero on the calibration data, kept or dropped, give finite and zero
    coefficients.
    """
    x = np.random.default_rng(0).standard_normal((50, 6))
    x[:, [1, 4]] = 0
    found = interpolation(x.T @ x, np.array([0, 1, 2]), 1e-7)
    assert np.isfinite(found).all()
    assert not found[1, [3, 4, 5]].any()
    assert not found[:, 4].any()
    np.testing.assert_allclose(
        x[:, [0, 2]] @ found[[0, 2]][:, [3, 5]],
        x[:, [0, 2]] @ np.linalg.lstsq(x[:, [0, 2]], x[:, [3, 5]], rcond=None)[0],
        rtol=1e-4,
    )


def test_the_ridge_grows_with_channels_per_observation_above_the_precision() -> None:
    assert ridge_for(10, 10**15, torch.float32) == precision_of(torch.float32)
    assert ridge_for(10, 10**15, torch.float64) == precision_of(torch.float64)
    assert precision_of(torch.float64) < precision_of(torch.float32) < precision_of(torch.bfloat16)
    ridges = [ridge_for(channels, 100, torch.float32) for channels in (10, 20, 40)]
    assert ridges == pytest.approx([ridges[0], 2 * ridges[0], 4 * ridges[0]])
    assert np.isfinite(ridge_for(10, 0, torch.float32))
