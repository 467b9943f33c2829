"""Bases against the best low-rank products, from singular value decompositions of SciPy."""

import numpy as np
import pytest
import scipy.linalg
import torch

from fxprune.linalg.rotation import (
    balanced_pair,
    dropping_errors,
    mirrored,
    nested_basis,
    stream_basis,
)
from fxprune.linalg.selection import Reader

SIZE = 7


def moment(seed: int, spread: float = 1.0, rank: int = SIZE) -> np.ndarray:
    """A second moment whose eigenvalues fall by `spread` orders of magnitude."""
    draw = np.random.default_rng(seed)
    q = np.linalg.qr(draw.standard_normal((SIZE, SIZE)))[0]
    values = np.logspace(0, -spread, SIZE) * (np.arange(SIZE) < rank)
    return np.asarray((q * values) @ q.T)


def least_costs(gram: np.ndarray, metric: np.ndarray) -> np.ndarray:
    """Of dropping 0, 1, ... by Eckart and Young, in the metric and the moments."""
    roots = [np.real(scipy.linalg.sqrtm(m)) for m in (metric, gram)]
    squares = scipy.linalg.svdvals(roots[0] @ roots[1])[::-1] ** 2
    return np.concatenate([[0.0], np.cumsum(squares)[:-1]])


def cost(gram: np.ndarray, metric: np.ndarray, kept: np.ndarray) -> float:
    """Of rebuilding the channels from these of their coordinates, as well as can be.

    Args:
        kept: (k, n).
    """
    inner = kept @ gram @ kept.T
    rebuild = np.eye(SIZE) - gram @ kept.T @ np.linalg.solve(inner, kept)
    return float(np.trace(metric @ rebuild @ gram @ rebuild.T))


@pytest.mark.parametrize("spread", [0.5, 3.0, 8.0])
def test_leading_coordinates_carry_the_best_product_of_every_rank(spread: float) -> None:
    gram, metric = moment(1, spread), moment(2, spread / 2)
    basis, spent = nested_basis(gram, metric)
    np.testing.assert_allclose(basis @ basis.T, np.eye(SIZE), atol=1e-12)
    wanted = least_costs(gram, metric)
    np.testing.assert_allclose(spent, wanted, rtol=1e-5, atol=1e-12)
    for dropped in range(1, SIZE):
        found = cost(gram, metric, basis[: SIZE - dropped])
        assert found == pytest.approx(wanted[dropped], rel=1e-4, abs=1e-11)


def test_dead_and_unread_directions_come_last() -> None:
    gram, metric = moment(3, rank=4), moment(4, rank=5)
    basis, spent = nested_basis(gram, metric)
    rank = np.linalg.matrix_rank(metric @ gram, tol=1e-8)
    np.testing.assert_allclose(basis @ basis.T, np.eye(SIZE), atol=1e-12)
    assert spent[SIZE - rank] <= 1e-12 < spent[SIZE - rank + 1]


def test_nothing_known_is_no_error() -> None:
    zero = np.zeros((SIZE, SIZE))
    basis, spent = nested_basis(zero, zero)
    np.testing.assert_allclose(basis @ basis.T, np.eye(SIZE), atol=1e-12)
    assert not spent.any()
    forward, backward, _ = balanced_pair(zero, zero)
    np.testing.assert_allclose(forward.T @ backward, np.eye(SIZE), atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
def test_factors_change_along_and_their_product_stays(scale: float) -> None:
    gram, metric = moment(5, 4.0), scale * moment(6, 2.0)
    forward, backward, spent = balanced_pair(gram, metric)
    np.testing.assert_allclose(forward.T @ backward, np.eye(SIZE), atol=1e-9)
    np.testing.assert_allclose(spent, least_costs(gram, metric), rtol=1e-2, atol=1e-5 * spent[-1])
    # The first factor keeps its energy.
    assert np.trace(forward @ gram @ forward.T) == pytest.approx(np.trace(gram), rel=5)


def test_dropped_coordinates_cost_the_least_that_any_product_of_the_rank_does() -> None:
    """The logits' error over independent queries and keys."""
    gram, metric = moment(7, 2.0), moment(8, 2.0)
    forward, backward, spent = balanced_pair(gram, metric)
    for dropped in range(1, SIZE):
        rest = np.eye(SIZE) - forward[:-dropped].T @ backward[:-dropped]
        # E (x^T (I - A B^T) y)^2 of independent x, y with these moments.
        found = np.trace(gram @ rest @ metric @ rest.T)
        assert found == pytest.approx(spent[dropped], rel=1e-3)


@pytest.mark.parametrize("centered", [False, True])
def test_a_streams_leading_coordinates_hold_all_its_energy(centered: bool) -> None:
    """What is read lies elsewhere than the channels do; a norm needs where these lie."""
    rank, gram, metric = 3, moment(5, rank=3), moment(6)
    if centered:
        without = np.eye(SIZE) - 1 / SIZE
        gram = without @ gram @ without
    basis = stream_basis(gram, metric, centered)
    np.testing.assert_allclose(basis @ basis.T, np.eye(SIZE), atol=1e-12)
    left = np.diag(basis @ gram @ basis.T)
    assert left[:rank].sum() == pytest.approx(np.trace(gram))
    assert np.abs(left[rank:]).max() < 1e-12
    if centered:
        np.testing.assert_allclose(basis[-1], SIZE**-0.5, atol=1e-12)
    # The plain basis keeps what is read, which is as good for weights alone.
    plain = nested_basis(gram, metric)[0]
    assert np.diag(plain @ gram @ plain.T)[rank:].max() > 1e-3


def test_nothing_known_of_a_stream_is_no_error() -> None:
    zero = np.zeros((SIZE, SIZE))
    basis = stream_basis(zero, zero, centered=True)
    np.testing.assert_allclose(basis @ basis.T, np.eye(SIZE), atol=1e-12)


@pytest.mark.parametrize("dim", [0, 1])
def test_the_mean_and_the_last_coordinate_change_places(dim: int) -> None:
    matrix = torch.from_numpy(np.random.default_rng(7).standard_normal((SIZE, SIZE)))
    turned = mirrored(matrix, dim)
    torch.testing.assert_close(mirrored(turned, dim), matrix)
    torch.testing.assert_close(turned.select(dim, -1), matrix.sum(dim) / SIZE**0.5)
    assert torch.equal(mirrored(matrix[:1, :1], dim), matrix[:1, :1])


def test_dropping_costs_what_the_readers_lose() -> None:
    draw = np.random.default_rng(8)
    columns = draw.permutation(SIZE)
    own = [
        Reader(moment(9), lambda: moment(10), columns, 0.5),
        Reader(moment(11), lambda: moment(12), columns),
    ]
    found = dropping_errors(own)
    for dropped in range(SIZE):
        gone = np.zeros(SIZE)
        gone[columns[SIZE - dropped :]] = 1
        wanted = sum(r.worth * gone @ (r.metric * r.gram) @ gone for r in own)
        assert found[dropped] >= wanted - 1e-12
    assert found[0] == 0
    assert (np.diff(found) >= 0).all()
    energy = float((own[1].metric * own[1].gram).sum())
    assert own[1].worth == pytest.approx(1 / energy)
