"""Numerics against SciPy and NumPy."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from torch import Tensor

import fxprune.linalg.gram as products
from fxprune.linalg.clopper_pearson import lower_bound
from fxprune.linalg.gram import Moments, Sums, gram
from fxprune.linalg.interpolation import interpolation, solve_ridge
from fxprune.linalg.refit import RIDGES, refit, solution
from fxprune.linalg.selection import Reader, dependent, output_aware, pivoted_qr

ROWS, COLUMNS = 200, 12


def matrix(condition: float, seed: int = 0, rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """Columns of known condition number."""
    generator = np.random.default_rng(seed)
    left, _ = np.linalg.qr(generator.standard_normal((rows, columns)))
    right, _ = np.linalg.qr(generator.standard_normal((columns, columns)))
    return (left * np.geomspace(1, 1 / condition, columns)) @ right


@pytest.mark.parametrize("condition", [1e1, 1e3, 1e5])
def test_pivoted_qr_picks_the_columns_of_geqp3(condition: float) -> None:
    x = matrix(condition)
    order, diagonal = pivoted_qr(x.T @ x)
    r, pivots = scipy.linalg.qr(x, mode="r", pivoting=True)
    assert order.tolist() == pivots.tolist()
    np.testing.assert_allclose(diagonal, np.abs(np.diag(r)), rtol=1e-4)


def test_pivoted_qr_stops_at_the_rank() -> None:
    x = matrix(10, columns=5) @ np.random.default_rng(1).standard_normal((5, 9))
    _, diagonal = pivoted_qr(x.T @ x)
    assert (diagonal[:5] > 0).all()
    assert diagonal[5:].max() <= 1e-6 * diagonal[0]


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


def test_ridge_with_a_prior_tends_to_the_prior() -> None:
    x, prior = matrix(10), np.random.default_rng(2).standard_normal((COLUMNS, 3))
    gram, right = x.T @ x, x.T @ np.random.default_rng(3).standard_normal((ROWS, 3))
    np.testing.assert_allclose(solve_ridge(gram, right, 1e9, prior), prior, atol=1e-6)
    np.testing.assert_allclose(
        solve_ridge(gram, right, 0.0, prior), np.linalg.solve(gram, right), rtol=1e-8
    )


@pytest.mark.parametrize(
    ("agreeing", "examples"), [(0, 10), (1, 10), (97, 100), (100, 100), (4871, 5000)]
)
def test_bound_is_clopper_pearson(agreeing: int, examples: int) -> None:
    exact = (
        scipy.stats.binomtest(agreeing, examples, alternative="greater")
        .proportion_ci(0.95, method="exact")
        .low
    )
    assert lower_bound(agreeing, examples) == pytest.approx(exact, abs=1e-12)


def readers(seed: int = 0) -> tuple[list[Reader], list[tuple[np.ndarray, np.ndarray]]]:
    """Two consumers of the same channels with their data and weights; the second sees them in
    another order beside other columns.
    """
    generator = np.random.default_rng(seed)
    result, raw = [], []
    for extra in (0, 3):
        x = matrix(20, seed + extra, columns=COLUMNS + extra)
        w = generator.standard_normal((5, COLUMNS + extra))
        columns = generator.permutation(COLUMNS + extra)[:COLUMNS]
        result.append(Reader(x.T @ x, w.T @ w, columns))
        raw.append((x, w))
    return result, raw


def test_output_aware_errors_equal_a_brute_force_refit() -> None:
    held, raw = readers()
    removal = output_aware(held, np.arange(COLUMNS)[None], ridge=1e-13)
    assert sorted(removal.order[0].tolist()) == list(range(COLUMNS))
    for count in range(COLUMNS):
        total = 0.0
        for reader, (x, w) in zip(held, raw, strict=True):
            kept = np.setdiff1d(np.arange(x.shape[1]), reader.columns[removal.order[0, :count]])
            outputs = x @ w.T
            refitted = x[:, kept] @ np.linalg.lstsq(x[:, kept], outputs, rcond=None)[0]
            total += np.sum((outputs - refitted) ** 2) / np.sum(outputs**2)
        assert removal.errors[count] == pytest.approx(total, rel=1e-5, abs=1e-9)


def test_output_aware_first_choice_is_the_best_single_one() -> None:
    held, raw = readers(5)

    def cost(channel: int) -> float:
        total = 0.0
        for reader, (x, w) in zip(held, raw, strict=True):
            kept = np.setdiff1d(np.arange(x.shape[1]), reader.columns[[channel]])
            outputs = x @ w.T
            total += np.sum(
                (outputs - x[:, kept] @ np.linalg.lstsq(x[:, kept], outputs, rcond=None)[0]) ** 2
            ) / np.sum(outputs**2)
        return float(total)

    removal = output_aware(held, np.arange(COLUMNS)[None], ridge=1e-13)
    assert int(removal.order[0, 0]) == int(np.argmin([cost(c) for c in range(COLUMNS)]))


def test_dependent_finds_combinations_and_dead_channels() -> None:
    x = matrix(10)
    x[:, 4] = x[:, 1] - 2 * x[:, 6]
    x[:, 8] = 0
    w = np.random.default_rng(0).standard_normal((5, COLUMNS))
    reader = Reader(x.T @ x, w.T @ w, np.arange(COLUMNS))
    found = dependent([reader], np.arange(COLUMNS)[None], 1e-13, 1e-11)
    assert found.shape == (1, 2)
    assert 8 in found
    assert set(found[0].tolist()) - {8} < {1, 4, 6}


def moments(p: Tensor, y: Tensor) -> Moments:
    """Of one group."""
    sums = Sums()
    sums.add(p[None], y[None])
    found = sums.total()
    assert found is not None
    return found


@pytest.mark.parametrize("library", [True, False], ids=["oneDNN", "MKL"])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("features", [5, 64, 150])
def test_sums_over_pieces_are_the_moments(
    library: bool, groups: int, features: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "ONEDNN", library and products.ONEDNN)
    generator = torch.Generator().manual_seed(features)
    p, y = (torch.randn(groups, 300, n, generator=generator) + 0.5 for n in (features, 7))
    sums = Sums()
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
    torch.testing.assert_close(gram(p[0].float()).double(), p[0].T @ p[0], rtol=1e-4, atol=1e-3)


def test_refit_recovers_a_linear_map_with_intercept() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(400, 6, generator=generator, dtype=torch.float64) + 1.5
    w, b = (
        torch.randn(3, 6, generator=generator, dtype=torch.float64),
        torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64),
    )
    y = p @ w.T + b
    found = refit(
        moments(p[:300], y[:300]),
        moments(p[300:], y[300:]),
        torch.zeros(1, 3, 6, dtype=torch.float64),
        intercept=True,
    )
    torch.testing.assert_close(found.weight[0], w, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.bias[0], b, atol=1e-5, rtol=0)
    assert found.ridge == min(RIDGES)


def test_refit_matches_the_ridge_solution_of_lstsq() -> None:
    generator = torch.Generator().manual_seed(2)
    p, y = (torch.randn(60, n, generator=generator, dtype=torch.float64) for n in (8, 2))
    prior = torch.randn(1, 2, 8, generator=generator, dtype=torch.float64)
    found = refit(moments(p[:40], y[:40]), moments(p[40:], y[40:]), prior, intercept=False)
    energy = p.square().sum(0)
    stacked = torch.cat([p, torch.diag((found.ridge * energy).sqrt())])
    target = torch.cat([y, (found.ridge * energy).sqrt()[:, None] * prior[0].T])
    wanted = np.linalg.lstsq(stacked.numpy(), target.numpy(), rcond=None)[0].T
    np.testing.assert_allclose(found.weight[0].numpy(), wanted, atol=1e-8)


def test_refit_never_judges_worse_than_the_prior() -> None:
    generator = torch.Generator().manual_seed(1)
    p, noise, w = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((30, 25), (30, 2), (2, 25))
    )
    y = p @ w.T + 3 * noise
    train, held_out = moments(p[:20], y[:20]), moments(p[20:], y[20:])
    ridge = refit(train, held_out, w[None], intercept=False).ridge
    assert held_out.residual(solution(train, w[None], False, ridge).weight) <= held_out.residual(
        w[None]
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


def test_the_gram_matrix_of_many_features_is_mirrored() -> None:
    rows = torch.randn(2, 50, 300, dtype=torch.float64)
    torch.testing.assert_close(gram(rows), rows.mT @ rows)
