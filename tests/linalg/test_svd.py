"""Factors against SciPy's singular values."""

import numpy as np
import pytest
import scipy.linalg
import torch

from fxprune.linalg import svd
from tests.tensors import normal


def test_svd_factors_are_the_best_of_their_rank() -> None:
    matrices = normal(2, 3, 7, 5)
    tail = svd.dropped(matrices)
    values = np.array([scipy.linalg.svdvals(m) for m in matrices.reshape(-1, 7, 5).numpy()])
    np.testing.assert_allclose(tail, [(values[:, r:] ** 2).sum() for r in range(6)], atol=1e-12)
    for rank in (1, 3, 5):
        left, right = svd.factor(matrices, rank)
        assert (left.shape, right.shape) == ((2, 3, 7, rank), (2, 3, rank, 5))
        torch.testing.assert_close(
            left.mT @ left, torch.eye(rank, dtype=torch.float64).expand(2, 3, rank, rank)
        )
        assert float((matrices - left @ right).square().sum()) == pytest.approx(
            tail[rank], abs=1e-12
        )
