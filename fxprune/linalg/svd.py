r"""The best low-rank matrix (Eckart & Young 1936): W ~ U_r (S_r V_r^T), with what is dropped known
at every rank.
"""

import numpy as np
import torch
from torch import Tensor


def factor(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors of the best approximations in every unitarily invariant norm.

    Args:
        matrices: (..., m, n) float64.
        rank: at most min(m, n).

    Returns:
        left (..., m, rank) with orthonormal columns, and right (..., rank, n).
    """
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    return left[..., :rank], values[..., :rank, None] * right[..., :rank, :]


def dropped(matrices: Tensor) -> np.ndarray:
    """Squared Frobenius error at rank 0, 1, ..., min(m, n), summed over the (..., m, n)
    matrices.
    """
    energy = torch.linalg.svdvals(matrices).square().reshape(-1, min(matrices.shape[-2:])).sum(0)
    return np.append(energy.flip(0).cumsum(0).flip(0).cpu().numpy(), 0.0)
