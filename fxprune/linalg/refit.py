r"""Refit a linear map from sums over rows, with the ridge chosen on held-out rows.

Minimizes \|Y - P W^T - b\|_F^2 + \lambda \sum_j D_j \|w_j - w0_j\|^2 with D the features' own
energies, so that \lambda is free of units and \lambda -> inf returns the prior W0. This is
layer-wise reconstruction (He et al., ICCV 2017, eq. 1) with a prior.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from fxprune.linalg.regression_sums import RegressionSums

EXACT = 1e-6
"""Relative squared error below which there is nothing to repair, only noise to fit."""
RIDGES = (1e-10, 1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
"""What is chosen from, relative to each feature's energy (docs/decisions/0002)."""
START = 6
"""Index of the ridge that is tried first: a likely one (docs/decisions/0010)."""
SINGLE = 1e-4
"""The least ridge at which fits are compared in single precision (docs/decisions/0010)."""
TINY = torch.finfo(torch.float64).tiny


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
    """Normal equations about a prior, scaled to unit feature energy, to solve at several ridges.

    Args:
        sums: centered where the outputs may be shifted.
        prior: (g, o, f), what the ridge pulls to.
    """

    def __init__(self, sums: RegressionSums, prior: Tensor):
        energy = sums.pp.diagonal(dim1=1, dim2=2)
        self.scale = energy.clamp(min=TINY + 1e-12 * float(energy.max())).rsqrt()[:, :, None]
        self.pp, self.right = self.rescale(sums, prior)

    def rescale(self, sums: RegressionSums, prior: Tensor) -> tuple[Tensor, Tensor]:
        """P^T P, and P^T of what the prior leaves of Y, in this system's units."""
        right = (sums.py - sums.pp @ prior.mT) * self.scale
        return sums.pp * self.scale * self.scale.mT, right

    def solve(self, ridge: float, dtype: torch.dtype = torch.float64) -> Tensor | None:
        """The (g, f, o) change to the prior in these units; None where a system is not positive
        definite.
        """
        system = self.pp.to(dtype, copy=True)
        system.diagonal(dim1=1, dim2=2).add_(ridge)
        factor, failed = torch.linalg.cholesky_ex(system)
        return None if bool(failed.any()) else torch.cholesky_solve(self.right.to(dtype), factor)


def lowest(value: Callable[[int], float], start: int, count: int) -> int:
    """Where a function of 0 ... count - 1 that falls and then rises is lowest, from a guess."""
    for step in (1, -1):
        at = start
        while 0 <= at + step < count and value(at + step) < value(at):
            at += step
        if at != start:
            return at
    return start


def solution(
    sums: RegressionSums,
    prior: Tensor,
    intercept: bool,
    ridge: float,
    dtype: torch.dtype = torch.float64,
) -> Fit:
    """The fit at a ridge.

    Args:
        prior: W0, (g, o, f) in any precision.
        intercept: whether the outputs may be shifted.
        ridge: infinite for the prior itself.
        dtype: in which the system is solved.
    """
    weight = prior = prior.double()
    if not math.isinf(ridge):
        system = _System(sums.centered() if intercept else sums, prior)
        change = system.solve(ridge, dtype)
        weight = prior if change is None else prior + (change * system.scale).mT
    n = max(sums.count, 1.0)
    bias = (
        (sums.y - (weight @ sums.p[:, :, None])[:, :, 0]) / n
        if intercept
        else weight.new_zeros(weight.shape[:2])
    )
    return Fit(weight, bias, ridge)


def refit(
    train: RegressionSums,
    held_out: RegressionSums,
    prior: Tensor,
    intercept: bool,
    unseen: Tensor | None = None,
) -> Fit:
    """Fit with the ridge that does best on held-out rows, then on all rows.

    Args:
        train, held_out: sums over disjoint rows.
        prior: W0, (g, o, f) in any precision.
        intercept: whether the outputs may be shifted.
        unseen: a prior in W0's place while the ridge is chosen, where W0 itself was made from the
            held-out rows too.
    """
    prior = prior.double()
    unseen = prior if unseen is None else unseen.double()
    # The held-out rows are centered by their own mean only for lack of a shift: its error is of
    # second order.
    fitting, validation = (m.centered() if intercept else m for m in (train, held_out))
    ridge = math.inf
    if validation.residual(unseen) > EXACT * max(float(validation.yy.sum()), TINY):
        system = _System(fitting, unseen)
        pp, right = system.rescale(validation, unseen)

        @cache
        def excess(at: int) -> float:
            """By how much the squared error at a ridge exceeds the prior's."""
            dtype = torch.float32 if RIDGES[at] >= SINGLE else torch.float64
            change = system.solve(RIDGES[at], dtype)
            return (
                0.0
                if change is None
                else float((change * (pp.to(dtype) @ change - 2 * right.to(dtype))).sum())
            )

        at = lowest(excess, START, len(RIDGES))
        if excess(at) < 0:
            ridge = RIDGES[at]
    return solution(train + held_out, prior, intercept, ridge)
