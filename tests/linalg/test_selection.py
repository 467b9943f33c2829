"""Removal orders against SciPy's pivoted QR and against brute force."""

from functools import partial

import numpy as np
import pytest
import scipy.linalg

from fxprune.linalg.pivoted_qr import PANEL, pivoted_qr
from fxprune.linalg.selection import (
    Reader,
    dependent,
    output_aware,
    pivoted_removal,
    removal_errors,
)
from tests.linalg.matrices import COLUMNS, matrix


@pytest.mark.parametrize("condition", [1e1, 1e3, 1e5])
def test_pivoted_qr_picks_the_columns_of_geqp3(condition: float) -> None:
    x = matrix(condition)
    order, diagonal = pivoted_qr(x.T @ x)
    r, pivots = scipy.linalg.qr(x, mode="r", pivoting=True)
    assert order.tolist() == pivots.tolist()
    np.testing.assert_allclose(diagonal, np.abs(np.diag(r)), rtol=1e-4)


@pytest.mark.parametrize(
    ("columns", "rank"), [(PANEL, PANEL), (PANEL + 1, 40), (150, 150), (150, 90)]
)
def test_pivoted_qr_in_panels(columns: int, rank: int) -> None:
    generator = np.random.default_rng(columns + rank)
    x = generator.standard_normal((200, rank)) @ generator.standard_normal((rank, columns))
    order, diagonal = pivoted_qr(x.T @ x)
    r, pivots = scipy.linalg.qr(x, mode="r", pivoting=True)
    assert order[:rank].tolist() == pivots[:rank].tolist()
    assert sorted(order) == list(range(columns))
    np.testing.assert_allclose(diagonal[:rank], np.abs(np.diag(r))[:rank], rtol=1e-4)
    assert diagonal[rank:].max(initial=0) <= 1e-5 * diagonal[0]


def test_pivoted_qr_stops_at_the_rank() -> None:
    x = matrix(10, columns=5) @ np.random.default_rng(1).standard_normal((5, 9))
    _, diagonal = pivoted_qr(x.T @ x)
    assert (diagonal[:5] > 0).all()
    assert diagonal[5:].max() <= 1e-6 * diagonal[0]


def squared(weight: np.ndarray) -> np.ndarray:
    """W^T W."""
    return np.asarray(weight.T @ weight)


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
        result.append(Reader(x.T @ x, partial(squared, w), columns))
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
    reader = Reader(x.T @ x, partial(squared, w), np.arange(COLUMNS))
    found = dependent([reader], np.arange(COLUMNS)[None], 1e-13, 1e-11)
    assert found.shape == (1, 2)
    assert 8 in found
    assert set(found[0].tolist()) - {8} < {1, 4, 6}


def test_pivoted_removal_is_the_reverse_order_with_what_it_leaves() -> None:
    x = matrix(20)
    removal, scores = pivoted_removal(x.T @ x, np.arange(COLUMNS), np.arange(COLUMNS)[None])
    order, diagonal = pivoted_qr(x.T @ x)
    assert removal.order[0].tolist() == order[::-1].tolist()
    np.testing.assert_allclose(scores, diagonal[::-1] / diagonal[0])
    for count in range(COLUMNS):
        kept = x[:, order[: COLUMNS - count]]
        left = x - kept @ np.linalg.lstsq(kept, x, rcond=None)[0]
        # R's diagonal bounds the residual from below, exactly where one column is left out.
        assert removal.errors[count] <= np.square(left).sum() / np.square(x).sum() + 1e-12
    assert removal.errors[1] == pytest.approx(diagonal[-1] ** 2 / np.square(x).sum())


def test_each_round_takes_one_channel_of_every_block() -> None:
    own, _ = readers(2)
    blocks = np.arange(COLUMNS).reshape(3, 4)[:, ::-1]
    for removal in (
        output_aware(own, blocks, 1e-7),
        pivoted_removal(own[0].gram, own[0].columns, blocks)[0],
    ):
        assert removal.order.shape == (3, 4)
        for row, block in zip(removal.order, blocks, strict=True):
            assert sorted(row.tolist()) == sorted(block.tolist())
        assert (np.diff(removal.errors) >= 0).all()
        assert removal.errors[0] == 0


@pytest.mark.parametrize("batch", [1, 2])
def test_an_order_from_last_to_first_costs_what_its_copy_costs(batch: int) -> None:
    own, _ = readers()
    backwards = np.arange(COLUMNS)[None, ::-1]
    errors = removal_errors(own, backwards, 1e-3, batch)
    np.testing.assert_array_equal(errors, removal_errors(own, backwards.copy(), 1e-3, batch))
    assert errors[-1] > errors[1] > 0
