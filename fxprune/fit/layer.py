"""Fit one layer of the reduced graph, from what reaches it there to what the original layer gave.

The layer's rows are summed into moments, `linalg.refit` solves for the weight and the intercept,
and where a plan asks for it the rank is lowered. The ridge is chosen in `linalg.refit.refit`, which
is called from here with the moments of the rows that validate; a plan that is only tried has fewer
to choose from (`FitOptions.ridges`). A fit that is handed over then aims at what the activation
behind it cannot tell from the original's outputs (`aims`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from fxprune.fit.aims import aim
from fxprune.fit.execution import Execution
from fxprune.fit.reduction import Reduction
from fxprune.fit.row_sums import RowMoments, current_bias, fixed_bias, sum_rows
from fxprune.fit.rows import split_groups
from fxprune.fit.samples import count_rows
from fxprune.fit.wide import gather_rows
from fxprune.graph.convolution import channel_dim, groups
from fxprune.graph.tensors import rewrite
from fxprune.label.layers import Layer
from fxprune.linalg.pca import truncate
from fxprune.linalg.refit import RIDGES, TINY, panels, refit
from fxprune.linalg.regression_sums import (
    COVARIANCE_SHRINKAGE,
)
from fxprune.linalg.wide_refit import WideRows, refit_wide


@dataclass(frozen=True)
class FittedTensors:
    """What fitting a layer left in the reduced graph.

    Attributes:
        tensors: by name, as they are now.
    """

    tensors: dict[str, Tensor]

    @classmethod
    def of(cls, layer: Layer, reduction: Reduction) -> "FittedTensors":
        """A layer's as they stand."""
        names = (layer.weight, layer.bias, layer.mean)
        return cls({name: reduction.tensor(name) for name in names if name is not None})

    def place(self, reduction: Reduction) -> None:
        """Put them into a reduced graph."""
        for name, tensor in self.tensors.items():
            own = reduction.tensor(name)
            if own is not tensor:
                rewrite(own, tensor)


def _at_once(weight: str, fit: Callable[[], FittedTensors]) -> FittedTensors:
    return fit()


@dataclass(frozen=True)
class FitOptions:
    """How layers are fitted.

    Attributes:
        ranks: of weights that are to become products of two; each of a convolution's groups has
            this rank.
        unseen: one-shot fits, by weight, that did not see the examples which validate; they stand
            in for those of the reduced graph while a ridge is chosen.
        ridges: that each layer's is chosen from on held-out examples, beside its one-shot fit.
        both: whether the held-out examples are fitted too, once it is chosen.
        judged: it is chosen on every so-many-th chunk of the validation split.
        step: takes the name of a layer's weight and what fits the layer; gives what that left,
            which may have been kept from before.
    """

    ranks: Mapping[str, int] = field(default_factory=dict)
    unseen: Mapping[str, Tensor] = field(default_factory=dict)
    ridges: Sequence[float] = RIDGES
    both: bool = True
    judged: int = 1
    step: Callable[[str, Callable[[], FittedTensors]], FittedTensors] = _at_once


@torch.no_grad()
def fit_layer(layer: Layer, execution: Execution, options: FitOptions) -> float | str:
    """Refit a layer in place, and lower its rank where that is asked.

    Args:
        layer: of the original graph.
        execution: has run up to the layer's inputs.
        options: how.

    Returns:
        the ridge of its fit, or why the layer keeps its one-shot one.
    """
    reduction = execution.reduction
    weight, rank = reduction.tensor(layer.weight), options.ranks.get(layer.weight)
    prior = as_matrices(weight, groups(reduction.reduced_nodes[layer.node.name]))
    prior = prior.to(execution.where(weight))
    rows = _observe(layer, execution, prior)
    solve = partial(_solve, rows, layer, reduction, options, prior)
    # Of sums that the first rank has, it makes the fit; rows that all have, all fit alike.
    wide = isinstance(rows, WideRows)
    group = execution.recording.sums.group
    outcome, new, shift = solve() if wide else group.first(solve, "fits")
    if new is None and rank is not None:
        prior = prior.double()
        shift = _current_shift(layer, reduction, prior)
        spread, mean = _covariance_of_outputs(layer, execution, prior, shift)
        new, shift = truncate(prior, shift, spread, mean, rank, layer.intercept)
    elif options.both and isinstance(outcome, float) and not isinstance(rows, WideRows):
        assert new is not None
        assert shift is not None
        new, shift = aim(layer, execution, rows, prior, (outcome, new, shift), rank)
    if new is not None and shift is not None:
        rewrite(weight, to_weight(new, weight.shape))
        _write_shift(layer, reduction, shift)
    return outcome


def as_matrices(weight: Tensor, count: int) -> Tensor:
    """A weight (out, in / groups, k1, ...) as (groups, out / groups, taps x in / groups), whose
    columns are in the order of `read_features`: where the weight lies, if that is possible.
    """
    return weight.detach().movedim(1, -1).reshape(count, len(weight) // count, -1)


def to_weight(matrices: Tensor, shape: Sequence[int]) -> Tensor:
    """The weight of this shape that `as_matrices` makes such matrices of."""
    outputs, inputs, *kernel = shape
    return matrices.reshape(outputs, *kernel, inputs).movedim(-1, 1)


def _observe(layer: Layer, execution: Execution, prior: Tensor) -> RowMoments | WideRows | None:
    """What is known of a layer's rows: their sums, on the first rank; or themselves, where they are
    fewer than the unknowns, on all ranks. None where there are none.
    """
    if count_rows(layer, execution) < prior.shape[2]:
        return gather_rows(layer, execution, fixed_bias(layer, execution.reduction))
    return sum_rows(layer, execution)


def _solve(
    rows: RowMoments | WideRows | None,
    layer: Layer,
    reduction: Reduction,
    options: FitOptions,
    prior: Tensor,
) -> tuple[float | str, Tensor | None, Tensor | None]:
    """The ridge of the fit to a layer's rows or why there is none, and the weight and what is added
    to the outputs, once the rank is lowered.

    Which of two systems is solved, that of features or that of rows, goes by which is smaller.
    """
    if rows is None:
        return "its outputs cannot be matched to the original's", None, None
    unseen, rank = options.unseen.get(layer.weight), options.ranks.get(layer.weight)
    start = None if unseen is None else as_matrices(unseen, len(prior)).to(prior)
    how = prior, layer.intercept, start, options.ridges, options.both
    if isinstance(rows, WideRows):
        fit = refit_wide(rows, *how)
    else:
        fit = refit(rows.fitting, rows.validation, *how)
    # A part at a time: what is asked of all makes copies of all.
    if not all(bool(torch.isfinite(fit.weight[:, own]).all()) for own in panels(fit.weight)):
        return "the fit is not finite", None, None
    if rank is None:
        return fit.ridge, fit.weight, fit.bias
    spread, mean = rows.outputs(fit.weight, options.both)
    return fit.ridge, *truncate(fit.weight, fit.bias, spread, mean, rank, layer.intercept)


def _current_shift(layer: Layer, reduction: Reduction, prior: Tensor) -> Tensor:
    """The bias as it stands, (groups, out / groups) float64; zeros where there is none."""
    bias = current_bias(layer, reduction)
    if bias is None:
        return prior.new_zeros(prior.shape[:2])
    return bias.detach().to(prior).view(prior.shape[:2])


def _write_shift(layer: Layer, reduction: Reduction, shift: Tensor) -> None:
    """Store what is added to the outputs in the bias, or in the mean of the BatchNorm behind."""
    flat = shift.reshape(-1)
    if layer.bias is not None:
        rewrite(reduction.tensor(layer.bias), flat)
    elif layer.mean is not None:
        mean = reduction.tensor(layer.mean)
        rewrite(mean, mean.double() - flat.to(mean.device))


def _covariance_of_outputs(
    layer: Layer, execution: Execution, prior: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    """Covariance (g, o, o) and mean (g, o) of what the reduced layer gives as it stands, without
    its bias.

    The covariance is shrunk towards that of white inputs by what few rows leave undetermined.
    """
    name, samples = layer.node.name, []
    channel = channel_dim(layer.node, execution.reduction.tensor(layer.weight).dim())
    for chunk, output in execution.results(name):
        output = output.movedim(channel, -1)
        at = execution.recording.sample(chunk, name)[0]
        # Removed channels among the positions shorten them; which positions are looked at does not
        # matter here.
        last = torch.tensor(output.shape[:-1])[:, None] - 1
        samples.append((chunk, output[tuple(torch.minimum(at, last))]))
    every = execution.recording.of_all(samples, "outputs")
    rows = split_groups(torch.cat(every).to(prior), len(prior)) - shift[:, None]
    mean = rows.mean(1)
    covariance = (rows - mean[:, None]).mT @ (rows - mean[:, None]) / rows.shape[1]
    isotropic = prior @ prior.mT
    per_energy = float(_trace(covariance).sum() / _trace(isotropic).sum().clamp(min=TINY))
    undetermined = COVARIANCE_SHRINKAGE * prior.shape[2] / rows.shape[1]
    return covariance + undetermined * per_energy * isotropic, mean


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
