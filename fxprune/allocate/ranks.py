"""Which layers become two, and with what rank, under a budget at given widths."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from fxprune.allocate.knapsack import Choices, allocate_choices
from fxprune.allocate.rank_errors import CRITERIA, Criterion
from fxprune.allocate.reduced_network import ReducedNetwork
from fxprune.graph.nodes import attribute
from fxprune.label.layers import Layer, factorable
from fxprune.plans.factoring import Factoring
from fxprune.profile.statistics import Statistics
from fxprune.session import Session

EIGENVALUES = 9.0
"""Multiples of n^3 that the eigenvectors of a symmetric matrix take."""
LAYER = 1e6
"""What a layer takes besides, on the same scale as n^3: 0.5 ms (2-core AMD EPYC, 2026-11-26)."""


def choose_ranks(
    session: Session,
    criterion: str,
    keep_mask: np.ndarray,
    limits: Mapping[str, float],
    saving: float = 0.0,
) -> tuple[dict[str, Factoring], dict[str, float]]:
    """Ranks under the limits at given widths, and every factored layer's predicted error.

    Args:
        session: what was captured and observed.
        criterion: of `CRITERIA`.
        keep_mask: (channels + 1,) bool, the channels that stay.
        limits: fractions of the original to keep, by name.
        saving: the least share of a layer's cost that two must save.

    Raises:
        BudgetError: the limits cannot be kept.
    """
    multiple = session.multiple
    network = ReducedNetwork(
        session.graph,
        session.analysis,
        keep_mask,
        factorable(session.graph, session.ignored)[0],
        session.costs,
        limits,
        multiple if isinstance(multiple, int) else max(multiple, default=1),
    )
    chosen = CRITERIA[criterion]
    if criterion == "pca":
        # Observed under stations of their own, not under this one.
        _ = session.statistics.output_moments, session.statistics.sensitivities
    with session.journal.station("allocate"):
        layers = list(network.layers.values())
        offered = session.statistics.group.share(
            [partial(choices, network, own, chosen, session.statistics, saving) for own in layers],
            [min(network.shape(own.weight)[:2]) ** 3 + LAYER for own in layers],
            "ranks",
        )
        fixed = network.cost() - sum((c.costs[0] for c in offered), np.zeros(len(limits)))
        ranks = allocate_choices(offered, fixed, limits, chosen.minimax)
    return ranks, {
        c.weight: float(c.errors[1 + c.factorings.index(ranks[c.weight])])
        for c in offered
        if c.weight in ranks
    }


def components_work(session: Session) -> float:
    """FLOPs of the principal components of every layer's outputs, once, at full width."""
    layers = factorable(session.graph, session.ignored)[0]
    sizes = (float(len(attribute(session.graph, name))) for name in layers)
    return EIGENVALUES * sum(size**3 for size in sizes)


def choices(
    network: ReducedNetwork,
    layer: Layer,
    criterion: Criterion,
    statistics: Statistics,
    saving: float = 0.0,
) -> Choices:
    """What may become of one layer.

    Args:
        network: at its widths.
        layer: one of its layers.
        criterion: that foresees the errors.
        statistics: of the original.
        saving: the least share of the layer's cost that two must save.
    """
    name = layer.weight
    whole, shape = network.layer_cost(layer), network.shape(name)
    factorings: list[Factoring] = []
    costs, errors = [whole[None]], [np.zeros(1)]
    for form, curve in criterion.curves(network, layer, statistics):
        largest = form.largest(shape)
        step = min(max(network.round_to // (form.groups * form.encoders), 1), largest)
        ranks = np.arange(step, largest + 1, step)
        # Both costs are proportional to the rank.
        spent = whole * _share_per_rank(network, layer, form) * ranks[:, None]
        pays = (spent < (1 - saving) * whole).any(1)
        factorings += [replace(form, rank=rank) for rank in ranks[pays].tolist()]
        costs.append(spent[pays])
        errors.append(curve[ranks[pays]])
    return Choices(name, tuple(factorings), np.concatenate(costs), np.concatenate(errors))


def _share_per_rank(network: ReducedNetwork, layer: Layer, form: Factoring) -> np.ndarray:
    """What each rank of the two layers costs, as shares of the one they replace, (limits,)."""
    shape = network.shape(layer.weight)
    elements = math.prod(shape)
    first, second = form.sizes(shape)
    positions = network.position_ratio(layer) if form.separable else 1.0
    shares = {
        "flops": (first * positions + second) / elements,
        "params": (first + second) / elements,
    }
    return np.array([shares[limit] for limit in network.limits])
