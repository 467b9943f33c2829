r"""What errors cost the model's output once they add up over the positions of an example.

With g the gradient of a probe v^T f by a layer's output and dz an error of that output,
E (sum_p g_p^T dz_p)^2 is the squared error of the model's output to first order. `sensitivity`
takes the terms as uncorrelated, and the error from the examples that the interpolation was fitted
to. But what removed channels leave behind is alike all over an image, and a pooling behind it, or a
mean over tokens, sums it; and on other examples it is larger. By how much is measured here, on
errors as they arise: those of rebuilding some of the channels from the rest (docs/decisions/0033).
"""

import math
import statistics
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from fxprune.calibrate.moments import InputMoments, Site
from fxprune.calibrate.strata import StratumPair, contract
from fxprune.graph.nodes import attribute
from fxprune.linalg.interpolation import interpolation, precision_of, ridge_for
from fxprune.linalg.tree_sum import Settle
from fxprune.profile.readers import metric

EVERY = 4
"""One channel of so many is rebuilt."""
REPAIRED = 0.5
"""Power of the ratio that counts: what is alike all over an image is also what the fits of later
layers repair best (docs/decisions/0033).
"""


def typical_error(weight: Tensor, axis: int, moments: InputMoments) -> Tensor:
    """How a weight changes when some of the channels that it reads are rebuilt from the rest.

    Args:
        weight: of a consumer.
        axis: by which it reads.
        moments: of what it reads.

    Returns:
        the change, in the weight's shape.
    """
    pairs, matrices = [], []
    for stratum, gram, seen in zip(moments.strata, moments.grams, moments.rows, strict=True):
        rebuilt = (np.arange(len(gram)) % EVERY == 0) & (stratum.keys > 0)
        kept = np.flatnonzero(~rebuilt)
        ridge, precision = ridge_for(len(gram), seen, weight.dtype), precision_of(weight.dtype)
        change = -np.eye(len(gram))
        change[kept] += interpolation(gram, kept, ridge, precision, seen)
        pairs.append(StratumPair(stratum, stratum))
        matrices.append(change)
    return contract(weight, axis, pairs, matrices)


def typical_errors(
    module: GraphModule, moments: Mapping[Site, InputMoments], settle: Settle | None
) -> dict[str, Tensor]:
    """Likewise of every weight that reads channels by its axis of inputs."""
    found = {
        name: typical_error(attribute(module, name), axis, moments[name, axis])
        for name, axis in moments
        if axis == 1
    }
    return found if settle is None else {name: settle(change) for name, change in found.items()}


def effects(gradient: Tensor, error: Tensor, examples: int) -> Tensor:
    """(examples,) float64: what an error of a layer's outputs does to a probe of the model's, all
    positions of an example together.

    Args:
        gradient, error: (N, ...) of the layer's outputs.
        examples: how many these are.
    """
    product = gradient * error
    if len(product) % examples == 0:
        return product.reshape(examples, -1).sum(1, dtype=torch.float64)
    # Rows that are not told apart by examples are one sum: what examples have to do with each
    # other is zero on average.
    found = torch.zeros(examples, dtype=torch.float64, device=product.device)
    found[0] = product.sum(dtype=torch.float64)
    return found


def foreseen(change: Tensor, sensitivity: Tensor, moments: InputMoments, groups: int) -> float:
    """What a change of a weight costs by moments and sensitivities alone.

    Args:
        change: of the weight, (outputs, inputs, ...).
        sensitivity: as `sensitivities` gives it.
        moments: of what the weight reads.
        groups: of the convolution.
    """
    return sum(
        float((metric(change, 1, stratum, groups, sensitivity) * gram).sum()) / max(seen, 1)
        for stratum, gram, seen in zip(moments.strata, moments.grams, moments.rows, strict=True)
    )


def factor(cost: float, fitted: float, others: float) -> float | None:
    """By what a sensitivity is to be multiplied; None where nothing is known.

    Args:
        cost: of errors, measured.
        fitted: what was foreseen of them on the examples that the interpolation was fitted to.
        others: likewise on others.
    """
    if not all(0 < value < math.inf for value in (cost, fitted, others)):
        return None
    return others / fitted * math.pow(cost / others, REPAIRED)


def level(metrics: Mapping[Site, Tensor], known: Mapping[Site, float | None]) -> None:
    """Multiply sensitivities, in place, by factors of mean 1; those of which nothing is known stay
    as they are.
    """
    found = {site: own for site, own in known.items() if own is not None}
    usual = statistics.geometric_mean(found.values()) if found else 1.0
    for site, own in found.items():
        metrics[site].mul_(own / usual)
