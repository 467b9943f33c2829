r"""Refit a linear map from sums over rows, with the ridge chosen on held-out rows.

Minimizes \|Y - P W^T - b\|_F^2 + \lambda \sum_j D_j \|w_j - w0_j\|^2 with D the features' own
energies, so that \lambda is free of units and \lambda -> inf returns the prior W0. This is
layer-wise reconstruction (He et al., ICCV 2017, eq. 1) with a prior. Outputs are independent of
each other but for the ridge, and pass by in panels where there are many.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from fxprune.linalg.regression_sums import RegressionSums

EXACT = 1e-6
"""Relative squared error below which there is nothing to repair, only noise to fit."""
RIDGES = (1e-10, 1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
"""What is chosen from, relative to each feature's energy (docs/decisions/0002)."""
START = 0.1
"""What is tried first: a likely one (docs/decisions/0010)."""
SINGLE = 1e-4
"""The least ridge at which fits are compared in single precision (docs/decisions/0010)."""
PANEL_ENTRIES = 1 << 24
"""Numbers of a weight that are worked on at a time: copies of a whole one, such as a language
model's head, may be the most that is ever held.
"""
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


def panels(weight: Tensor) -> list[slice]:
    """The outputs of a (g, o, f) weight, as many at a time as are worked on together."""
    groups, outputs, features = weight.shape
    step = max(1, PANEL_ENTRIES // max(groups * features, 1))
    return [slice(at, min(at + step, outputs)) for at in range(0, outputs, step)]


def cholesky(system: Tensor, ridge: float, dtype: torch.dtype = torch.float64) -> Tensor | None:
    """The Cholesky factor of systems (g, n, n) with a ridge; None where one is not positive
    definite.
    """
    ridged = system.to(dtype, copy=True)
    ridged.diagonal(dim1=1, dim2=2).add_(ridge)
    found, failed = torch.linalg.cholesky_ex(ridged)
    return None if bool(failed.any()) else found


class _System:
    """Normal equations about a prior, scaled to unit feature energy, to solve at several ridges.

    Args:
        pp: P^T P, centered where the outputs may be shifted.
    """

    def __init__(self, pp: Tensor):
        energy = pp.diagonal(dim1=1, dim2=2)
        self.scale = energy.clamp(min=TINY + 1e-12 * float(energy.max())).rsqrt()[:, :, None]
        self.pp = self.rescale(pp)

    def rescale(self, pp: Tensor) -> Tensor:
        """P^T P in this system's units."""
        return pp * self.scale * self.scale.mT

    def right(self, sums: RegressionSums, prior: Tensor) -> Tensor:
        """P^T of what the prior leaves of Y, in this system's units."""
        return (sums.py - sums.pp @ prior.mT) * self.scale

    def factor(self, ridge: float, dtype: torch.dtype = torch.float64) -> Tensor | None:
        """The Cholesky factor at a ridge; None where a system is not positive definite. It solves
        for the (g, f, o) change to the prior in these units.
        """
        return cholesky(self.pp, ridge, dtype)


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
    return _solution(sums.part, prior, intercept, ridge, dtype)


def _solution(
    part: Callable[[slice], RegressionSums],
    prior: Tensor,
    intercept: bool,
    ridge: float,
    dtype: torch.dtype = torch.float64,
) -> Fit:
    """The fit at a ridge to sums of which some outputs' are given at a time."""
    weight, system, factor = prior.to(torch.float64, copy=True), None, None
    bias = weight.new_zeros(weight.shape[:2])
    for own in panels(prior):
        sums = part(own)
        if not math.isinf(ridge):
            about = sums.centered() if intercept else sums
            if system is None:
                system = _System(about.pp)
                factor = system.factor(ridge, dtype)
            if factor is not None:
                right = system.right(about, prior[:, own].double()).to(dtype)
                weight[:, own] += (torch.cholesky_solve(right, factor) * system.scale).mT
        if intercept:
            given = (weight[:, own] @ sums.p[:, :, None])[:, :, 0]
            bias[:, own] = (sums.y - given) / max(sums.count, 1.0)
    return Fit(weight, bias, ridge)


def refit(
    train: RegressionSums,
    held_out: RegressionSums,
    prior: Tensor,
    intercept: bool,
    unseen: Tensor | None = None,
    ridges: Sequence[float] = RIDGES,
    both: bool = True,
) -> Fit:
    """Fit with the ridge that does best on held-out rows.

    Args:
        train, held_out: sums over disjoint rows.
        prior: W0, (g, o, f) in any precision.
        intercept: whether the outputs may be shifted.
        unseen: a prior in W0's place while the ridge is chosen, where W0 itself was made from the
            held-out rows too.
        ridges: to choose from, beside the prior itself; increasing, with `START` among them.
        both: whether the fit is made to all rows then, in double precision; else to `train` alone,
            in the precision in which ridges are compared.
    """
    start = prior if unseen is None else unseen
    ridge = _choose_ridge(train, held_out, start, intercept, ridges)
    if not both:
        return solution(train, prior, intercept, ridge, precision(ridge))
    return _solution(lambda own: train.part(own) + held_out.part(own), prior, intercept, ridge)


def precision(ridge: float) -> torch.dtype:
    """In which fits at a ridge are compared."""
    return torch.float32 if ridge >= SINGLE else torch.float64


def _choose_ridge(
    train: RegressionSums,
    held_out: RegressionSums,
    prior: Tensor,
    intercept: bool,
    ridges: Sequence[float],
) -> float:
    """The ridge that does best on held-out rows; infinite where none beats the prior."""
    error = energy = 0.0
    system: _System | None = None
    rights = list[tuple[Tensor, Tensor]]()
    for own in panels(prior):
        # The held-out rows are centered by their own mean only for lack of a shift: its error is of
        # second order.
        parts = train.part(own), held_out.part(own)
        fitting, validation = (p.centered() if intercept else p for p in parts)
        if system is None:
            system = _System(fitting.pp)
            pp = system.rescale(validation.pp)
        start = prior[:, own].double()
        error += validation.residual(start)
        energy += float(validation.yy.sum())
        rights.append((system.right(fitting, start), system.right(validation, start)))
    if not error > EXACT * max(energy, TINY):
        return math.inf

    @cache
    def excess(at: int) -> float:
        """By how much the squared error at a ridge exceeds the prior's."""
        assert system is not None
        dtype = precision(ridges[at])
        factor, found, products = system.factor(ridges[at], dtype), 0.0, pp.to(dtype)
        if factor is None:
            return 0.0
        for fitting, validating in rights:
            change = torch.cholesky_solve(fitting.to(dtype), factor)
            found += float((change * (products @ change - 2 * validating.to(dtype))).sum())
        return found

    at = lowest(excess, ridges.index(START), len(ridges))
    return ridges[at] if excess(at) < 0 else math.inf
