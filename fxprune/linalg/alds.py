r"""Grouped encoders, one decoder (Liebenwein, Maalouf, Feldman & Rus, NeurIPS 2021, ALDS).

The columns of W are cut into k parts, each replaced by its best rank-j approximation. The relative
operator-norm error is at most sqrt(k) max_i s_{j+1}(W_i) / s_1(W) (their theorem 1), which is what
the method minimizes over layers.
"""

import math

import numpy as np
import torch
from torch import Tensor


def bounds(parts: Tensor) -> np.ndarray:
    """The bound at rank 0, 1, ..., min(m, n).

    Args:
        parts: (g, k, m, n) float64: the k parts of each of g independent matrices; the worst of
            these counts.
    """
    values = torch.linalg.svdvals(parts)
    whole = parts.transpose(1, 2).flatten(2)
    largest = float(torch.linalg.matrix_norm(whole, 2).max())
    worst = values.amax((0, 1)).cpu().numpy()
    return np.append(worst, 0.0) * math.sqrt(parts.shape[1]) / max(largest, np.finfo(float).tiny)
