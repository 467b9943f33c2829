"""Truncation against reduced-rank regression."""

import numpy as np
import pytest
import scipy.linalg
import torch

from fxprune.linalg import pca
from tests.tensors import normal


@pytest.mark.parametrize("intercept", [True, False])
def test_pca_is_the_reduced_rank_regression(intercept: bool) -> None:
    x, noise, w = normal(200, 6, seed=1), normal(200, 5, seed=2), normal(5, 6, seed=3)
    x = x * torch.tensor([5.0, 3, 1, 1, 0.3, 0.1]) + 2
    y = x @ w.T + 1.5 + 0.3 * noise
    design = np.hstack([x.numpy(), np.ones((200, 1))]) if intercept else x.numpy()
    solution = np.linalg.lstsq(design, y.numpy(), rcond=None)[0].T
    weight, shift = (
        torch.from_numpy(solution[:, :6]),
        torch.from_numpy(solution[:, 6] if intercept else np.zeros(5)),
    )
    z = x @ weight.T
    mean, centered = z.mean(0), z - z.mean(0)
    for rank in (1, 2, 5):
        found, moved = pca.truncate(
            weight[None],
            shift[None],
            (centered.T @ centered / 200)[None],
            mean[None],
            rank,
            intercept,
        )
        assert np.linalg.matrix_rank(found[0].numpy()) == rank
        # Izenman 1975: project the fitted values (about their mean, where there is an intercept)
        # on their leading singular vectors.
        fitted = (centered if intercept else z).numpy()
        right = scipy.linalg.svd(fitted, full_matrices=False)[2][:rank]
        wanted = fitted @ right.T @ right + (y.mean(0).numpy() if intercept else 0)
        np.testing.assert_allclose((x @ found[0].T + moved[0]).numpy(), wanted, atol=1e-9)
        if intercept:
            error = np.square(z.numpy() + shift.numpy() - wanted).sum() / 200
            assert pca.dropped(centered.T @ centered / 200)[rank] == pytest.approx(error, abs=1e-9)
