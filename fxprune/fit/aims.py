r"""Fit a layer again, to those of the outputs which what follows takes for the original's that lie
next to what the first fit gives.

A fit to the original's outputs spends itself on numbers that, say, a ReLU makes zero all the same.
What counts is how far its outputs lie from the set of those that the activation cannot tell from
the original's: a convex set, and no outputs within it are worse than others. Projecting onto it and
fitting to the projections never increases the squared distance (an upper bound of the squared error
behind the activation): majorization, as in the nonlinear response reconstruction of Zhang et al.
(TPAMI 2016, section 3.1), whose auxiliary variables these projections are. A step beyond that fit,
over-relaxed, does what several do.
"""

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fxprune.fit.execution import Execution
from fxprune.fit.plateaus import plateaus_behind
from fxprune.fit.row_sums import RowMoments, sum_aims
from fxprune.label.layers import Layer
from fxprune.linalg.pca import truncate
from fxprune.linalg.refit import PANEL_ENTRIES, solution
from fxprune.linalg.tree_sum import Terms

RELAXATION = 1.5
"""How far to go from the first fit towards that to the projections: below 2, and the distance never
grows (docs/decisions/0034). At 0 the first fit stays.
"""


def aim(
    layer: Layer,
    execution: Execution,
    rows: RowMoments | None,
    prior: Tensor,
    fit: tuple[float, Tensor, Tensor],
    rank: int | None,
) -> tuple[Tensor, Tensor]:
    """Fit a layer once more, to all its rows.

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
    if behind is None or math.isinf(ridge) or weight.numel() > PANEL_ENTRIES or not RELAXATION:
        return weight, shift
    aims = sum_aims(layer, execution, behind, weight, shift)
    solve = partial(_fit_again, rows, aims, prior, fit, rank, layer.intercept)
    return execution.recording.sums.group.first(solve, "fits")


def _fit_again(
    rows: RowMoments | None,
    aims: Terms | None,
    prior: Tensor,
    fit: tuple[float, Tensor, Tensor],
    rank: int | None,
    intercept: bool,
) -> tuple[Tensor, Tensor]:
    """On the first rank, as `aim` takes and gives it; the fit before where this is not finite.

    Args:
        aims: what `sum_aims` gives.
        intercept: whether the outputs may be shifted.
    """
    assert rows is not None
    assert aims is not None
    ridge, *before = fit
    y, py = aims
    sums = replace(rows.fitting + rows.validation, y=y, py=py)
    again = solution(sums, prior, intercept, ridge)
    weight, shift = map(torch.lerp, before, (again.weight, again.bias), (RELAXATION, RELAXATION))
    if rank is not None:
        weight, shift = truncate(weight, shift, *sums.outputs(weight), rank, intercept)
    finite = bool(weight.isfinite().all()) and bool(shift.isfinite().all())
    return (weight, shift) if finite else fit[1:]
