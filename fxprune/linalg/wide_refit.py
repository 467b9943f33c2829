r"""Refit a linear map from fewer rows than it has features.

The minimum of `linalg.refit` in dual variables (Saunders, Gammerman, Vovk, ICML 1998): with
P~ = (P - mean) D^{-1/2} and R = Y - P W0^T, the change to W0 is R^T (P~ P~^T + \lambda)^{-1} P~
D^{-1/2}. The products of rows with each other are (r, r); features pass by in blocks, and no matrix
of features by features is ever formed. Outputs are independent of each other but for the ridge, and
pass by in panels where there are many.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from fxprune.linalg.gram import gram
from fxprune.linalg.refit import (
    EXACT,
    RIDGES,
    START,
    TINY,
    Fit,
    cholesky,
    lowest,
    panels,
    precision,
)
from fxprune.linalg.regression_sums import COVARIANCE_SHRINKAGE

Blocks = Callable[[], Iterator[tuple[Tensor, Tensor]]]
"""Gives all features anew at each call, in blocks: their numbers (b,) and columns (g, r, b)."""


@dataclass(frozen=True)
class WideRows:
    """Rows of f features and o targets in each of g independent groups.

    Attributes:
        features: f.
        blocks: the features.
        targets: (g, r, o).
        validates: (r,) bool, the rows on which a ridge is chosen.
    """

    features: int
    blocks: Blocks
    targets: Tensor
    validates: Tensor

    def fitted(self, both: bool) -> Tensor | slice:
        """Which rows are fitted: all, of which this makes no copy, or those that do not validate,
        (r,) bool.
        """
        return slice(None) if both else ~self.validates

    def outputs(self, weight: Tensor, both: bool) -> tuple[Tensor, Tensor]:
        """Covariance (g, o, o) and mean (g, o) of P W^T over the rows that are fitted, for a
        (g, o, f) weight, shrunk as `RegressionSums.outputs` is.
        """
        fitted = self.fitted(both)
        found = torch.zeros_like(self.targets[:, fitted], dtype=torch.float64)
        shrunk = weight.new_zeros(*weight.shape[:2], weight.shape[1])
        for index, every in self.blocks():
            own, columns = weight[..., index], every[:, fitted]
            found += columns.double() @ own.mT
            energy = columns.double().var(1, correction=0)
            shrunk += (own * energy[:, None]) @ own.mT
        rows, mean = found.shape[1], found.mean(1)
        centered = found - mean[:, None]
        share = COVARIANCE_SHRINKAGE * self.features / max(rows, 1)
        return centered.mT @ centered / max(rows, 1) + share * shrunk, mean


@dataclass(frozen=True)
class _Products:
    """Rows times rows, and what priors leave of the targets, float64.

    Attributes:
        kernel: P~ P~^T, (g, r, r).
        mean, scale: of the features, (g, f): P~ = (P - mean) * scale; no mean without intercept.
        left: (g, r, o) of each prior; the same tensor for the same prior.
    """

    kernel: Tensor
    mean: Tensor
    scale: Tensor
    left: tuple[Tensor, ...]


def refit_wide(
    rows: WideRows,
    prior: Tensor,
    intercept: bool,
    unseen: Tensor | None = None,
    ridges: Sequence[float] = RIDGES,
    both: bool = True,
) -> Fit:
    """Fit with the ridge that does best on the rows that validate.

    Args:
        rows: what to fit.
        prior: W0, (g, o, f) in any precision, what the ridge pulls to.
        intercept: whether the outputs may be shifted.
        unseen: a prior in W0's place while the ridge is chosen, where W0 itself was made from the
            rows that validate too.
        ridges: to choose from, beside the prior itself; increasing, with `START` among them.
        both: whether the fit is made to all rows then; else to those that do not validate.
    """
    fitted = rows.fitted(both)
    priors = prior, prior if unseen is None else unseen
    seen = _multiply(rows, priors, intercept, fitted)
    ridge = _choose_ridge(rows, seen.kernel, seen.left[1], panels(prior), intercept, ridges)
    weight = prior.to(torch.float64, copy=True)
    factor = None
    if not math.isinf(ridge):
        factor = _factor(seen.kernel[:, fitted][:, :, fitted], ridge)
    if factor is not None:
        _add_change(weight, rows, seen, factor, intercept, fitted)
    bias = weight.new_zeros(weight.shape[:2])
    if intercept:
        own = [rows.targets[:, fitted, part].double().mean(1) for part in panels(prior)]
        bias = torch.cat(own, 1) - (weight @ seen.mean[..., None])[..., 0]
    return Fit(weight, bias, ridge)


def _multiply(
    rows: WideRows, priors: tuple[Tensor, ...], intercept: bool, fitted: Tensor | slice
) -> _Products:
    groups, count = rows.targets.shape[:2]
    kernel = rows.targets.new_zeros(groups, count, count, dtype=torch.float64)
    mean, scale = (kernel.new_zeros(groups, rows.features) for _ in range(2))
    known = {id(prior): prior for prior in priors}
    left = {key: rows.targets.to(torch.float64, copy=True) for key in known}
    for index, columns in rows.blocks():
        for key, prior in known.items():
            for own in panels(prior):
                read = prior[:, own][..., index].mT.to(columns.dtype)
                left[key][..., own] -= (columns @ read).double()
        if intercept:
            mean[:, index] = columns[:, fitted].mean(1, dtype=torch.float64)
            columns = columns - mean[:, None, index].to(columns.dtype)
        energy = columns[:, fitted].double().square().sum(1)
        scale[:, index] = energy.clamp(min=TINY + 1e-12 * float(energy.max())).rsqrt()
        kernel += gram((columns * scale[:, None, index].to(columns.dtype)).mT).double()
    return _Products(kernel, mean, scale, tuple(left[id(prior)] for prior in priors))


def _choose_ridge(
    rows: WideRows,
    kernel: Tensor,
    left: Tensor,
    outputs: list[slice],
    intercept: bool,
    ridges: Sequence[float],
) -> float:
    """The ridge whose fit to the other rows errs least on those that validate; infinite where none
    beats the prior.
    """
    fit, val = (~rows.validates).nonzero()[:, 0], rows.validates.nonzero()[:, 0]
    if intercept:
        # About the mean of the rows that are fitted, not of all.
        kernel = kernel - kernel[:, fit].mean(1, keepdim=True)
        kernel = kernel - kernel[:, :, fit].mean(2, keepdim=True)
    spread = before = 0.0
    for own in outputs:
        targets = rows.targets[:, val, own].double()
        targets = targets - targets.mean(1, keepdim=True) if intercept else targets
        spread += float(targets.square().sum())
        before += float(_centered(left[:, val, own], intercept).square().sum())
    if not len(val) or not before > EXACT * max(spread, TINY):
        return math.inf
    inner, across = kernel[:, fit][:, :, fit], kernel[:, val][:, :, fit]

    @cache
    def excess(at: int) -> float:
        """By how much the squared error at a ridge exceeds the prior's."""
        factor, error = _factor(inner, ridges[at]), 0.0
        if factor is None:
            return 0.0
        for own in outputs:
            dual = _solve(_centered(left[:, fit, own], intercept), factor)
            rest = _centered(left[:, val, own], intercept) - across @ dual
            error += float(_centered(rest, intercept).square().sum())
        return error - before

    at = lowest(excess, ridges.index(START), len(ridges))
    return ridges[at] if excess(at) < 0 else math.inf


def _centered(rows: Tensor, intercept: bool) -> Tensor:
    """Rows (g, r, o) about their mean, where the outputs may be shifted."""
    return rows - rows.mean(1, keepdim=True) if intercept else rows


def _factor(kernel: Tensor, ridge: float) -> Tensor | None:
    """The Cholesky factor of K + ridge, (g, r, r), in the precision that the ridge allows."""
    return cholesky(kernel, ridge, precision(ridge))


def _solve(left: Tensor, factor: Tensor) -> Tensor:
    """(K + ridge)^{-1} R, (g, r, o) float64."""
    return torch.cholesky_solve(left.to(factor.dtype), factor).double()


def _add_change(
    weight: Tensor,
    rows: WideRows,
    seen: _Products,
    factor: Tensor,
    intercept: bool,
    fitted: Tensor | slice,
) -> None:
    """Add R^T (K + ridge)^{-1} P~ D^{-1/2} of the rows that are fitted to a (g, o, f) weight, in
    place.
    """
    duals = [
        _solve(_centered(seen.left[0][:, fitted, own], intercept), factor) for own in panels(weight)
    ]
    for index, columns in rows.blocks():
        centered = columns[:, fitted] - seen.mean[:, None, index].to(columns.dtype)
        for own, dual in zip(panels(weight), duals, strict=True):
            product = (dual.mT.to(columns.dtype) @ centered).double()
            weight[:, own, index] += product * seen.scale[:, None, index].square()
