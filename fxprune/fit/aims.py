r"""Fit a layer again, to those of the outputs which what follows takes for the original's that lie
next to what the last fit gives.

A fit to the original's outputs spends itself on numbers that, say, a ReLU makes zero all the same.
What counts is how far its outputs lie from the set of those that the activation cannot tell from
the original's: a convex set, and no outputs within it are worse than others. Each round projects
onto it and fits to the projections, so that the squared distance (an upper bound of the squared
error behind the activation) never grows: majorization, as in the nonlinear response reconstruction
of Zhang et al. (TPAMI 2016, section 3.1), whose auxiliary variables these projections are. Features
stay, so their products and the factor of the system serve all rounds.
"""

import math
from functools import partial

from torch import Tensor

from fxprune.fit.execution import Execution
from fxprune.fit.plateaus import plateaus_behind
from fxprune.fit.row_sums import RowMoments, sum_aims
from fxprune.label.layers import Layer
from fxprune.linalg.pca import truncate
from fxprune.linalg.refit import PANEL_ENTRIES, Refit
from fxprune.linalg.tree_sum import Terms

ROUNDS = 3
"""Of fits that follow a layer's first (docs/decisions/0032)."""


def aim(
    layer: Layer,
    execution: Execution,
    rows: RowMoments | None,
    prior: Tensor,
    fit: tuple[float, Tensor, Tensor],
    rank: int | None,
) -> tuple[Tensor, Tensor]:
    """Fit a layer some rounds more, to all its rows.

    Args:
        layer: of the original graph.
        execution: has run up to the layer's inputs.
        rows: what it was fitted to; None on all ranks but the first.
        prior: (g, o, f), what the ridge pulls to.
        fit: its ridge, weight (g, o, f) and what is added to the outputs, (g, o).
        rank: that the layer is to have; None for any.

    Returns:
        weight and shift, those of the fit where nothing behind the layer is flat.
    """
    ridge, weight, shift = fit
    behind = plateaus_behind(layer, execution.reduction)
    if behind is None or math.isinf(ridge) or weight.numel() > PANEL_ENTRIES:
        return weight, shift
    again = None if rows is None else _Again(rows, prior, ridge, rank, layer.intercept)
    for _ in range(ROUNDS):
        aims = sum_aims(layer, execution, behind, weight, shift)
        solve = partial(_solve, again, aims, (weight, shift))
        weight, shift = execution.recording.sums.group.first(solve, "fits")
    return weight, shift


class _Again:
    """Fits at one ridge, and of one rank, to all rows of a layer.

    Args:
        rows, prior, ridge, rank: as `aim` takes them.
        intercept: whether the outputs may be shifted.
    """

    def __init__(
        self, rows: RowMoments, prior: Tensor, ridge: float, rank: int | None, intercept: bool
    ):
        self._sums, self._rank, self._intercept = rows.fitting + rows.validation, rank, intercept
        self._refit = Refit(self._sums, prior, intercept, ridge)

    def fit(self, aims: Terms) -> tuple[Tensor, Tensor]:
        """Weight and shift, from what `sum_aims` gives."""
        weight, shift = self._refit.fit(*aims)
        if self._rank is None:
            return weight, shift
        spread, mean = self._sums.outputs(weight)
        return truncate(weight, shift, spread, mean, self._rank, self._intercept)


def _solve(
    again: _Again | None, aims: Terms | None, before: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """One round on the first rank; the fit before it, where this is not finite."""
    assert again is not None
    assert aims is not None
    fit = again.fit(aims)
    return fit if all(bool(part.isfinite().all()) for part in fit) else before
