r"""Refit a linear map from second moments, with the ridge chosen on held-out rows.

Minimises \|Y - P W^T - b\|_F^2 + \lambda \sum_j D_j \|w_j - w0_j\|^2 with D the features' own energies, so that \lambda is free of units and
\lambda -> inf returns the prior W0. This is layer-wise reconstruction (He et al., ICCV 2017, eq. 1) with a prior.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

EXACT = 1e-6
"""Relative squared error below which there is nothing to repair, only noise to fit."""
RIDGES = (1e-10, 1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
START = 6
"""The ridge tried first."""
SINGLE = 1e-4
"""The least ridge at which single precision is enough to compare fits."""
SHRINKAGE = 0.2
"""Of a covariance towards its diagonal, per (features / rows)."""
TINY = torch.finfo(torch.float64).tiny


def gram(rows: Tensor, panel: int = 64) -> Tensor:
    """A^T A of (..., r, f) rows, half of it computed and mirrored where f is large."""
    features = rows.shape[-1]
    if features <= panel:
        return rows.mT @ rows
    result = rows.new_empty(*rows.shape[:-2], features, features)
    for start in range(0, features, panel):
        part = rows[..., start : start + panel].mT @ rows[..., start:]
        result[..., start : start + panel, start:] = part
        result[..., start:, start : start + panel] = part.mT
    return result


@dataclass(frozen=True)
class Moments:
    """Sums over rows of f features and o targets in each of g independent groups, float64.

    Attributes:
        count: rows.
        p, y: sums, (g, f) and (g, o).
        pp, py, yy: P^T P (g, f, f), P^T Y (g, f, o), sum of Y^2 per output (g, o).
    """

    count: float
    p: Tensor
    y: Tensor
    pp: Tensor
    py: Tensor
    yy: Tensor

    @classmethod
    def of(cls, rows: Tensor, target: Tensor, block: int = 1 << 13) -> "Moments":
        """Moments of (g, r, f) rows and (g, r, o) targets: products in their precision per block, summed in float64."""
        if rows.dtype in (torch.float16, torch.bfloat16):
            rows, target = rows.float(), target.float()
        groups, count, features = rows.shape
        pp = rows.new_zeros(groups, features, features, dtype=torch.float64)
        py = rows.new_zeros(groups, features, target.shape[2], dtype=torch.float64)
        p = rows.new_zeros(groups, features, dtype=torch.float64)
        for a, b in zip(rows.split(block, 1), target.split(block, 1), strict=True):
            pp += gram(a)
            py += a.mT @ b
            p += a.sum(1)
        return cls(float(count), p, target.sum(1, dtype=torch.float64), pp, py, target.double().square().sum(1))

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
            self.pp - self.p[:, :, None] * self.p[:, None] / n, self.py - self.p[:, :, None] * self.y[:, None] / n,
            self.yy - self.y.square() / n,
        )  # fmt: skip

    def outputs(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Covariance (g, o, o) and mean (g, o) of P W^T, for a (g, o, f) weight.

        The features' covariance is shrunk towards its diagonal by what few rows leave undetermined, so that directions which the rows
        do not show count by their weights.
        """
        n = max(self.count, 1.0)
        inner = self.centred().pp
        inner.diagonal(dim1=1, dim2=2).mul_(1 + SHRINKAGE * weight.shape[2] / n)
        return weight @ inner @ weight.mT / n, (weight @ self.p[:, :, None])[:, :, 0] / n

    def residual(self, weight: Tensor) -> float:
        """Sum of squared errors of a (g, o, f) weight, without intercept."""
        error = self.yy.sum() - 2 * (weight.mT * self.py).sum() + (weight * (weight @ self.pp)).sum()
        return max(float(error), 0.0)


@dataclass(frozen=True)
class Fit:
    """A refitted map.

    Attributes:
        weight: (g, o, f) float64.
        bias: (g, o) float64 added to the outputs; zeros without intercept.
        ridge: inf means the prior was best.
    """

    weight: Tensor
    bias: Tensor
    ridge: float


class _System:
    """Normal equations of moments about a prior, scaled to unit feature energy, for several ridges.

    Args:
        m: (centred where the outputs may be shifted).
        prior: (g, o, f), what the ridge pulls to.
    """

    def __init__(self, m: Moments, prior: Tensor):
        energy = m.pp.diagonal(dim1=1, dim2=2)
        self.scale = energy.clamp(min=TINY + 1e-12 * float(energy.max())).rsqrt()[:, :, None]
        self.pp, self.right = self.scaled(m, prior)

    def scaled(self, m: Moments, prior: Tensor) -> tuple[Tensor, Tensor]:
        """P^T P, and P^T of what the prior leaves of Y, in this system's units."""
        return m.pp * self.scale * self.scale.mT, (m.py - m.pp @ prior.mT) * self.scale

    def solve(self, ridge: float, dtype: torch.dtype = torch.float64) -> Tensor | None:
        """The (g, f, o) change to the prior in these units; None where a system is not positive definite."""
        system = self.pp.to(dtype, copy=True)
        system.diagonal(dim1=1, dim2=2).add_(ridge)
        factor, failed = torch.linalg.cholesky_ex(system)
        return None if bool(failed.any()) else torch.cholesky_solve(self.right.to(dtype), factor)


def _lowest(value: Callable[[int], float], start: int, count: int) -> int:
    """Where a function of 0 ... count - 1 that falls and then rises is lowest, from a guess."""
    for step in (1, -1):
        at = start
        while 0 <= at + step < count and value(at + step) < value(at):
            at += step
        if at != start:
            return at
    return start


def solution(moments: Moments, prior: Tensor, intercept: bool, ridge: float, dtype: torch.dtype = torch.float64) -> Fit:
    """The fit at a ridge.

    Args:
        prior: W0, (g, o, f) float64.
        intercept: whether the outputs may be shifted.
        ridge: infinite for the prior itself.
        dtype: in which the system is solved.
    """
    weight = prior
    if not math.isinf(ridge):
        system = _System(moments.centred() if intercept else moments, prior)
        change = system.solve(ridge, dtype)
        weight = prior if change is None else prior + (change * system.scale).mT
    n = max(moments.count, 1.0)
    bias = (moments.y - (weight @ moments.p[:, :, None])[:, :, 0]) / n if intercept else weight.new_zeros(weight.shape[:2])
    return Fit(weight, bias, ridge)


def refit(train: Moments, held_out: Moments, prior: Tensor, intercept: bool, unseen: Tensor | None = None) -> Fit:
    """Fit with the ridge that does best on held-out rows, then on all rows.

    Args:
        train, held_out: moments of disjoint rows.
        prior: W0, (g, o, f) float64.
        intercept: whether the outputs may be shifted.
        unseen: a prior in W0's place while the ridge is chosen, where W0 itself was made from the held-out rows too.
    """
    unseen = prior if unseen is None else unseen
    # The held-out rows are centred by their own mean only for lack of a shift: its error is of second order.
    fit, judge = (m.centred() if intercept else m for m in (train, held_out))
    ridge = math.inf
    if judge.residual(unseen) > EXACT * max(float(judge.yy.sum()), TINY):
        system = _System(fit, unseen)
        pp, right = system.scaled(judge, unseen)

        @cache
        def worse(at: int) -> float:
            """By how much the squared error exceeds the prior's."""
            dtype = torch.float32 if RIDGES[at] >= SINGLE else torch.float64
            change = system.solve(RIDGES[at], dtype)
            return 0.0 if change is None else float((change * (pp.to(dtype) @ change - 2 * right.to(dtype))).sum())

        at = _lowest(worse, START, len(RIDGES))
        if worse(at) < 0:
            ridge = RIDGES[at]
    return solution(train + held_out, prior, intercept, ridge)
