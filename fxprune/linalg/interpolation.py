r"""Interpolation: rebuild dropped columns from kept ones.

Minimizes \|X - X_K T\|_F^2 + \lambda \|T - T_0\|_F^2 over T, given second moments only: with A =
X_K^T X_K and B = X_K^T X, T = (A + \lambda I)^{-1} (B + \lambda T_0). For A and B taken from one
model this is the interpolative decomposition of Chee et al. (NeurIPS 2022), section 3, in
normal-equation form; for A from a compressed model and B across models it fits the compressed
activations to the original ones.
"""

import math

import numpy as np
import torch

PRECISION = {torch.float64: 1e-13, torch.float32: 1e-7}
"""Relative error of second moments, by the precision of the activations."""
COARSE = 1e-5
"""The same for activations in half precision."""
RIDGE_PER_CHANNEL = 0.05
"""Ridge per (channels / observations): the noise of moments estimated from few rows."""
ROUNDING = 30.0
"""Residuals below so many times the precision, per degree of freedom that is left, are rounding
(docs/decisions/0014).
"""


def precision_of(dtype: torch.dtype) -> float:
    """Relative error of second moments of activations of a dtype."""
    return PRECISION.get(dtype, COARSE)


def ridge_for(channels: int, observations: int, dtype: torch.dtype) -> float:
    """Relative Tikhonov weight for interpolating that many channels from that many rows."""
    return max(precision_of(dtype), RIDGE_PER_CHANNEL * channels / max(observations, 1))


def solve_ridge(
    a: np.ndarray, b: np.ndarray, ridge: float, prior: np.ndarray | None = None
) -> np.ndarray:
    """Solve (A + lambda I) T = B + lambda T0 with lambda = ridge * mean(diag A).

    Args:
        a: (k, k) float64, symmetric positive semidefinite.
        b: (k, n) float64.
        ridge: relative to A's mean diagonal, >= 0.
        prior: T0, (k, n); zero when left out.

    Returns:
        (k, n) float64. Where A + lambda I is numerically singular, the minimum-norm solution of
        its leading eigenspace.
    """
    scale = ridge * float(np.trace(a)) / max(len(a), 1)
    system = torch.from_numpy(a + scale * np.eye(len(a)))
    right = torch.from_numpy(np.ascontiguousarray(b if prior is None else b + scale * prior))
    # torch's solvers, not SciPy's: two BLAS thread pools in one process fight over the cores.
    factor, failed = torch.linalg.cholesky_ex(system)
    if not bool(failed):
        solution = torch.cholesky_solve(right, factor)
        if bool(torch.isfinite(solution).all()):
            return np.asarray(solution.numpy())
    values, vectors = torch.linalg.eigh(system)
    keep = values > values.max() * len(a) * torch.finfo(torch.float64).eps
    basis = vectors[:, keep]
    return np.asarray(((basis / values[keep]) @ (basis.T @ right)).numpy())


def interpolation(
    gram: np.ndarray,
    kept: np.ndarray,
    ridge: float,
    precision: float = 1e-13,
    rows: float = math.inf,
) -> np.ndarray:
    """T of shape (k, n) with X ~ X[:, kept] T, exact on the kept columns.

    Args:
        gram: X^T X, (n, n) float64.
        kept: (k,) column indices.
        ridge: relative Tikhonov weight on the dropped columns' coefficients.
        precision: relative error of the Gram matrix; columns that the kept ones rebuild to this
            precision are rebuilt without shrinkage.
        rows: observations in X; as many kept columns rebuild anything, which proves nothing.
    """
    result = np.zeros((len(kept), len(gram)))
    dropped = np.setdiff1d(np.arange(len(gram)), kept)
    result[np.arange(len(kept)), kept] = 1
    energy = np.diag(gram)
    # Dead columns neither rebuild others nor need to be rebuilt.
    lives = energy > np.finfo(float).eps ** 2 * max(
        float(energy.max(initial=0)), np.finfo(float).tiny
    )
    places, kept, dropped = np.flatnonzero(lives[kept]), kept[lives[kept]], dropped[lives[dropped]]
    if len(dropped) and len(kept):
        # Equilibrate: channels may differ by orders of magnitude in scale.
        scale = np.sqrt(np.maximum(energy, np.finfo(float).tiny))
        a = gram[np.ix_(kept, kept)] / np.outer(scale[kept], scale[kept])
        b = gram[np.ix_(kept, dropped)] / np.outer(scale[kept], scale[dropped])
        unit = solve_ridge(a, b, ridge)
        free = max(1 - len(kept) / rows, 0.0)
        if ridge > precision and free:
            sharp = solve_ridge(a, b, precision)
            fitted = (torch.from_numpy(a) @ torch.from_numpy(sharp)).numpy()
            exact = (
                np.abs(1 - 2 * (sharp * b).sum(0) + (sharp * fitted).sum(0))
                < ROUNDING * precision * free
            )
            unit[:, exact] = sharp[:, exact]
        result[np.ix_(places, dropped)] = unit * scale[dropped] / scale[kept][:, None]
    return result
