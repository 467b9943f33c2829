"""Criteria of ranks: in which form a layer becomes two, and the error at every rank.

A further criterion is one function here and one entry in `CRITERIA`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fxprune.allocate.reduced_network import ReducedNetwork
from fxprune.label.layers import Layer
from fxprune.linalg import alds, pca, svd
from fxprune.plans.factoring import Factoring
from fxprune.profile.statistics import Statistics

ENCODERS = 8
"""Most parts that ALDS cuts a group's input channels into."""

Curve = tuple[Factoring, np.ndarray]
"""A form of factoring a layer, at rank 1, and its error at rank 0, 1, ..."""


@dataclass(frozen=True)
class Criterion:
    """How errors of lower ranks are foreseen and compared between layers.

    Attributes:
        curves: every form of factoring a layer, with its errors.
        minimax: whether the largest error over the layers counts, not their sum.
    """

    curves: Callable[[ReducedNetwork, Layer, Statistics], list[Curve]]
    minimax: bool = False


def principal_components(
    network: ReducedNetwork, layer: Layer, statistics: Statistics
) -> list[Curve]:
    """Output components that are lost, weighed by what they cost the model's output.

    Where the model has no derivative, relative to the layer's own outputs.
    """
    count = network.groups(layer)
    sensitivities = statistics.sensitivities
    kept = network.outputs(layer.weight)
    moments = statistics.output_moments[layer.weight]
    covariance = moments.covariance(layer.intercept)[kept][:, kept]
    own = sensitivities.get((layer.weight, 1))
    if own is not None and len(own) > 1:
        own = _diagonal_blocks(own[kept][:, kept], count)
    elif own is not None:
        own = own * torch.eye(len(kept) // count).to(own)
    errors = pca.dropped(_diagonal_blocks(covariance, count), own)
    return [(Factoring(1, count), errors if sensitivities else _relative(errors))]


def singular_values(network: ReducedNetwork, layer: Layer, statistics: Statistics) -> list[Curve]:
    """Squared singular values of the weight that are lost, relative to all."""
    form = Factoring(1, network.groups(layer))
    return [(form, _relative(svd.dropped(form.fold(network.weight(layer.weight)))))]


def learned_rank(network: ReducedNetwork, layer: Layer, statistics: Statistics) -> list[Curve]:
    """Squared singular values of the weight as k1 x 1 after 1 x k2 (Idelbayev et al. 2020)."""
    separable = len(network.shape(layer.weight)) > 2
    form = Factoring(1, network.groups(layer), separable=separable)
    return [(form, svd.dropped(form.fold(network.weight(layer.weight))))]


def grouped_encoders(network: ReducedNetwork, layer: Layer, statistics: Statistics) -> list[Curve]:
    """Bounds of the relative operator-norm error (Liebenwein et al. 2021, ALDS)."""
    shape = network.shape(layer.weight)
    most = min(ENCODERS, shape[1]) if len(shape) > 2 else 1
    encoders = [k for k in range(1, most + 1) if shape[1] % k == 0]
    forms = [Factoring(1, network.groups(layer), k) for k in encoders]
    return [(form, alds.bounds(form.fold(network.weight(layer.weight)))) for form in forms]


CRITERIA: Mapping[str, Criterion] = {
    "pca": Criterion(principal_components),
    "svd": Criterion(singular_values),
    "learned-rank": Criterion(learned_rank),
    "alds": Criterion(grouped_encoders, minimax=True),
}
"""By the name that `Method.ranks` holds."""


def _relative(errors: np.ndarray) -> np.ndarray:
    return errors / max(float(errors[0]), np.finfo(float).tiny)


def _diagonal_blocks(square: Tensor, count: int) -> Tensor:
    """The diagonal blocks of a matrix, (count, size, size)."""
    size = len(square) // count
    return square.view(count, size, count, size).diagonal(dim1=0, dim2=2).movedim(-1, 0)
