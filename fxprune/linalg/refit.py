r"""Refit a linear map from second moments, with the ridge chosen on held-out rows.

Minimises \|Y - P W^T - b\|_F^2 + \lambda \sum_j D_j \|w_j - w0_j\|^2 with D the features' own
energies, so that \lambda is free of units and \lambda -> inf returns the prior W0. This is
layer-wise reconstruction (He et al., ICCV 2017, eq. 1) with a prior.
"""

import math
from collections.abc import Callable, Iterator
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
BLOCK, PANEL = 1 << 13, 64
"""Rows whose products are summed in their own precision; columns of A^T A that are made by one
product.
"""
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether products in single precision can be oneDNN's: MKL, which torch multiplies with, leaves
AVX-512 unused on AMD's processors.
"""
TINY = torch.finfo(torch.float64).tiny


def gram(rows: Tensor) -> Tensor:
    """A^T A of (..., r, f) rows, half of it computed and mirrored where f is large."""
    features = rows.shape[-1]
    if features <= PANEL:
        return rows.mT @ rows
    result = rows.new_empty(*rows.shape[:-2], features, features)
    for start, part in _triangle(rows.mT.contiguous(), features):
        result[..., start:, start : start + PANEL] = part
    return _mirrored(result)


def _triangle(columns: Tensor, features: int) -> Iterator[tuple[int, Tensor]]:
    """Products of (..., n, r) columns with the first of them, a few of those after the other, from
    the diagonal downwards.

    Yields:
        the number of the first, and (..., n - that, at most PANEL) products.
    """
    for start in range(0, features, PANEL):
        left, right = columns[..., start:, :], columns[..., start : min(start + PANEL, features), :]
        yield start, _product(left, right)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """A B^T of (..., n, r) and (..., m, r), by the faster library where there is one of each."""
    single = left.shape[:-2].numel() == 1 and left.numel() and right.numel()
    if not (ONEDNN and single and left.device.type == "cpu" and left.dtype == torch.float32):
        return left @ right.mT
    flat = torch.ops.mkldnn._linear_pointwise(
        left.reshape(left.shape[-2:]), right.reshape(right.shape[-2:]), None, "none", [], ""
    )
    return flat.view(*left.shape[:-1], -1)  # type: ignore[no-any-return]


def _mirrored(lower: Tensor) -> Tensor:
    """A symmetric matrix of its lower triangle, in place."""
    for start in range(0, lower.shape[-1] - PANEL, PANEL):
        lower[..., start : start + PANEL, start + PANEL :] = lower[
            ..., start + PANEL :, start : start + PANEL
        ].mT
    return lower


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

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count,
            self.p + other.p,
            self.y + other.y,
            self.pp + other.pp,
            self.py + other.py,
            self.yy + other.yy,
        )

    def centred(self) -> "Moments":
        """The same sums about the means."""
        n = max(self.count, 1.0)
        return Moments(
            self.count,
            self.p,
            self.y,
            self.pp - self.p[:, :, None] * self.p[:, None] / n,
            self.py - self.p[:, :, None] * self.y[:, None] / n,
            self.yy - self.y.square() / n,
        )

    def outputs(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Covariance (g, o, o) and mean (g, o) of P W^T, for a (g, o, f) weight.

        The features' covariance is shrunk towards its diagonal by what few rows leave
        undetermined, so that directions which the rows do not show count by their weights.
        """
        n = max(self.count, 1.0)
        inner = self.centred().pp
        inner.diagonal(dim1=1, dim2=2).mul_(1 + SHRINKAGE * weight.shape[2] / n)
        return weight @ inner @ weight.mT / n, (weight @ self.p[:, :, None])[:, :, 0] / n

    def residual(self, weight: Tensor) -> float:
        """Sum of squared errors of a (g, o, f) weight, without intercept."""
        error = (
            self.yy.sum() - 2 * (weight.mT * self.py).sum() + (weight * (weight @ self.pp)).sum()
        )
        return max(float(error), 0.0)


class Sums:
    """Moments of rows that come in pieces: products in the rows' precision, summed over blocks in
    float64.
    """

    def __init__(self) -> None:
        self._count, self._sums = 0, list[Tensor]()

    def add(self, rows: Tensor, target: Tensor) -> None:
        """Count (g, r, f) rows and (g, r, o) targets."""
        for x, y in zip(rows.split(BLOCK, 1), target.split(BLOCK, 1), strict=True):
            if x.dtype in (torch.float16, torch.bfloat16):
                x, y = x.float(), y.float()
            (groups, count, features), outputs = x.shape, y.shape[2]
            columns = torch.cat([x.mT, y.mT], 1)
            if not self._sums:
                shapes = (features + outputs,), (features + outputs, features), (outputs,)
                self._sums = [x.new_zeros(groups, *shape, dtype=torch.float64) for shape in shapes]
            first, second, squares = self._sums
            first += columns.sum(2, dtype=torch.float64)
            for start, part in _triangle(columns, features):
                second[:, start:, start : start + PANEL] += part
            squares += y.double().square().sum(1)
            self._count += count

    def total(self) -> Moments | None:
        """Of all rows so far; None of none."""
        if not self._sums:
            return None
        first, second, squares = self._sums
        features = second.shape[2]
        pp, py = _mirrored(second[:, :features].clone()), second[:, features:].mT
        return Moments(
            float(self._count), first[:, :features], first[:, features:], pp, py, squares
        )


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
        """The (g, f, o) change to the prior in these units; None where a system is not positive
        definite.
        """
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


def solution(
    moments: Moments,
    prior: Tensor,
    intercept: bool,
    ridge: float,
    dtype: torch.dtype = torch.float64,
) -> Fit:
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
    bias = (
        (moments.y - (weight @ moments.p[:, :, None])[:, :, 0]) / n
        if intercept
        else weight.new_zeros(weight.shape[:2])
    )
    return Fit(weight, bias, ridge)


def refit(
    train: Moments, held_out: Moments, prior: Tensor, intercept: bool, unseen: Tensor | None = None
) -> Fit:
    """Fit with the ridge that does best on held-out rows, then on all rows.

    Args:
        train, held_out: moments of disjoint rows.
        prior: W0, (g, o, f) float64.
        intercept: whether the outputs may be shifted.
        unseen: a prior in W0's place while the ridge is chosen, where W0 itself was made from the
            held-out rows too.
    """
    unseen = prior if unseen is None else unseen
    # The held-out rows are centred by their own mean only for lack of a shift: its error is of
    # second order.
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
            return (
                0.0
                if change is None
                else float((change * (pp.to(dtype) @ change - 2 * right.to(dtype))).sum())
            )

        at = _lowest(worse, START, len(RIDGES))
        if worse(at) < 0:
            ridge = RIDGES[at]
    return solution(train + held_out, prior, intercept, ridge)
