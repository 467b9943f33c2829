r"""Column-pivoted QR of X from its Gram matrix: Cholesky with diagonal pivoting, in panels.

Each step takes the column with the largest residual norm, as geqp3 does (Chee et al. 2022, section
3). What columns before a panel explain is subtracted in one product, what those within it explain
from the pivots and their columns alone (Lucas, LAPACK working note 161, 2004).
"""

import numpy as np
import torch

PANEL = 64
"""Columns between two updates of the whole residual."""


def pivoted_qr(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns in the order column-pivoted QR of X picks them, and |r_kk|.

    Args:
        gram: X^T X, (n, n) float64.

    Returns:
        order (n,) and the diagonal of R (n,), zero past the numerical rank.
    """
    # Row k of the factor, and what it leaves of the columns behind it; columns change places.
    work = np.array(gram, dtype=np.float64)
    size = len(work)
    order, diagonal = np.arange(size), np.zeros(size)
    floor = max(float(np.diag(work).max(initial=0)), 0) * size * np.finfo(float).eps
    for first in range(0, size, PANEL):
        last = min(first + PANEL, size)
        left = np.diag(work)[first:].copy()
        for k in range(first, last):
            pivot = k + int(np.argmax(left[k - first :]))
            if left[pivot - first] <= floor:
                return order, diagonal
            _exchange(work, order, left, k, pivot, first)
            diagonal[k] = root = np.sqrt(left[k - first])
            row = work[k, k + 1 :] - work[first:k, k] @ work[first:k, k + 1 :]
            work[k, k + 1 :] = row / root
            left[k + 1 - first :] -= work[k, k + 1 :] ** 2
        rows = torch.from_numpy(work[first:last, last:])
        torch.from_numpy(work[last:, last:]).addmm_(rows.T, rows, alpha=-1)
    return order, diagonal


def _exchange(
    work: np.ndarray, order: np.ndarray, left: np.ndarray, k: int, pivot: int, first: int
) -> None:
    """Let two columns change places: in the factor's rows, and both ways in what is left."""
    if pivot == k:
        return
    work[:, [k, pivot]] = work[:, [pivot, k]]
    work[[k, pivot], k:] = work[[pivot, k], k:]
    order[[k, pivot]] = order[[pivot, k]]
    left[[k - first, pivot - first]] = left[[pivot - first, k - first]]
