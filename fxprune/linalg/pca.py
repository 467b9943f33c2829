r"""The best low-rank layer under the data: principal components of its outputs.

For y = W x + b with covariance C of y, the rank-r layer that minimizes E\|y - y_r\|^2 is W_r = U_r
U_r^T W with U_r the leading eigenvectors of C, and b_r = b + (I - U_r U_r^T) E[W x] (Zhang et al.,
TPAMI 2016, section 3.2). With W the least-squares solution for some targets, W_r is their
reduced-rank regression (Izenman 1975).
"""

import numpy as np
import torch
from torch import Tensor


def dropped(covariance: Tensor, sensitivity: Tensor | None = None) -> np.ndarray:
    """Squared error at rank 0, 1, ..., n of (..., n, n) covariances, summed over them; float64.

    Args:
        sensitivity: (..., n, n) metric of the errors; the identity by default.
    """
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=0)
    if sensitivity is not None:
        values = values * (vectors * (sensitivity.to(vectors) @ vectors)).sum(-2).clamp(min=0)
    return np.append(
        values.reshape(-1, covariance.shape[-1]).sum(0).cumsum(0).flip(0).cpu().numpy(), 0.0
    )


def truncate(
    weight: Tensor, shift: Tensor, covariance: Tensor, mean: Tensor, rank: int, intercept: bool
) -> tuple[Tensor, Tensor]:
    """The best layer of a lower rank under the data.

    Args:
        weight: (g, o, f) float64, of g independent groups.
        shift: (g, o), what the layer adds to W x.
        covariance: of W x, (g, o, o).
        mean: of W x, (g, o).
        rank: of each group.
        intercept: whether the shift may change; otherwise the components are those of the second
            moment about zero.

    Returns:
        weight and shift of the truncated layer.
    """
    if not intercept:
        covariance = covariance + mean[:, :, None] * mean[:, None]
    basis = torch.linalg.eigh(covariance).eigenvectors[..., -rank:]
    kept = basis @ basis.mT
    if intercept:
        shift = shift + mean - (kept @ mean[..., None])[..., 0]
    return kept @ weight, shift
