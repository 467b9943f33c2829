r"""Refit a linear map from second moments, with the ridge chosen on held-out rows.

Minimises \|Y - P W^T - b\|_F^2 + \lambda \sum_j D_j \|w_j - w0_j\|^2 with D the features' own
energies, so that \lambda is free of units and \lambda -> inf returns the prior W0. This is
layer-wise reconstruction (He et al., ICCV 2017, eq. 1) with a prior.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from fxprune.linalg.gram import Moments

EXACT = 1e-6
"""Relative squared error below which there is nothing to repair, only noise to fit."""
RIDGES = (1e-10, 1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
START = 6
"""The ridge tried first."""
SINGLE = 1e-4
"""The least ridge at which single precision is enough to compare fits."""
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
    """Normal equations of moments about a prior, scaled to unit feature energy, for several ridges.

    Args:
        m: (centered where the outputs may be shifted).
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
        system = _System(moments.centered() if intercept else moments, prior)
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
    # The held-out rows are centered by their own mean only for lack of a shift: its error is of
    # second order.
    fit, judge = (m.centered() if intercept else m for m in (train, held_out))
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
