r"""Refit a linear map from second moments, with the ridge chosen on held-out rows.

Minimises \|Y - P W^T - b\|_F^2 + \lambda \sum_j D_j \|w_j - w0_j\|^2 with D the features' own energies, so that \lambda is free of units and
\lambda -> inf returns the prior W0. This is layer-wise reconstruction (He et al., ICCV 2017, eq. 1) with a prior.
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg

RIDGES = (1e-10, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass
class Moments:
    """Sums over rows: features (f,), targets (o,).

    Attributes:
        count: rows.
        p, y: sums, (f,) and (o,).
        pp, py, yy: P^T P (f, f), P^T Y (f, o), sum of Y^2 per output (o,).
    """

    count: float
    p: np.ndarray
    y: np.ndarray
    pp: np.ndarray
    py: np.ndarray
    yy: np.ndarray

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count, self.p + other.p, self.y + other.y,
            self.pp + other.pp, self.py + other.py, self.yy + other.yy,
        )  # fmt: skip

    def centred(self) -> "Moments":
        """The same sums about the means."""
        n = max(self.count, 1.0)
        return Moments(
            self.count, self.p, self.y,
            self.pp - np.outer(self.p, self.p) / n, self.py - np.outer(self.p, self.y) / n, self.yy - self.y**2 / n,
        )  # fmt: skip

    def residual(self, weight: np.ndarray) -> float:
        """Sum of squared errors of a (o, f) weight, without intercept."""
        error = self.yy.sum() - 2 * np.sum(weight.T * self.py) + np.sum(weight * (weight @ self.pp))
        return float(max(error, 0.0))


@dataclass(frozen=True)
class Refit:
    """A refitted map.

    Attributes:
        weight: (o, f).
        bias: (o,) added to the outputs; zeros without intercept.
        ridge: the chosen one; inf means the prior was best.
        before, after: relative squared error of prior and result on the held-out rows.
    """

    weight: np.ndarray
    bias: np.ndarray
    ridge: float
    before: float
    after: float


def _solve(m: Moments, prior: np.ndarray, ridge: float) -> np.ndarray:
    energy = np.diag(m.pp)
    scale = 1 / np.sqrt(np.maximum(energy, np.finfo(float).tiny + 1e-12 * energy.max(initial=0)))
    system = m.pp * np.outer(scale, scale)
    system[np.diag_indices_from(system)] += ridge
    right = (m.py - m.pp @ prior.T) * scale[:, None]
    try:
        step = scipy.linalg.solve(system, right, assume_a="pos", check_finite=False)
    except (scipy.linalg.LinAlgError, ValueError):
        return prior
    return np.asarray(prior + (step * scale[:, None]).T)


def refit(train: Moments, held_out: Moments, prior: np.ndarray, intercept: bool) -> Refit:
    """Fit with the ridge that does best on held-out rows, then on all rows.

    Args:
        train, held_out: moments of disjoint rows.
        prior: W0, (o, f).
        intercept: whether the outputs may be shifted.
    """
    everything = train + held_out
    # The held-out rows are centred by their own mean only for lack of a shift: its error is of second order.
    fit, judge, final = (m.centred() if intercept else m for m in (train, held_out, everything))
    total = max(float(judge.yy.sum()), np.finfo(float).tiny)
    before = judge.residual(prior) / total
    best, ridge = before, np.inf
    for candidate in RIDGES:
        error = judge.residual(_solve(fit, prior, candidate)) / total
        if error < best:
            best, ridge = error, candidate
    weight = prior if np.isinf(ridge) else _solve(final, prior, ridge)
    n = max(everything.count, 1.0)
    bias = (everything.y - weight @ everything.p) / n if intercept else np.zeros(len(weight))
    return Refit(weight, bias, ridge, before, best)
