"""Station 5c: which layers become two, and with what rank, under a budget."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from fxprune.errors import BudgetError
from fxprune.graph.convolution import groups
from fxprune.graph.nodes import attribute
from fxprune.label.analysis import Analysis
from fxprune.label.layers import Layer, factorable
from fxprune.label.survivors import shrink_parameter
from fxprune.linalg import alds, pca, svd
from fxprune.plans.factoring import Factoring
from fxprune.profile.costs import CostModel
from fxprune.profile.output_moments import OutputMoments
from fxprune.session import Session

METHODS = ("pca", "svd", "learned-rank", "alds")
ENCODERS = 8
"""Most parts that ALDS cuts a group's input channels into."""


@dataclass(frozen=True)
class Choices:
    """What may become of one layer; the first choice is to leave it alone, at no error.

    Attributes:
        weight: the layer's name.
        factorings: one per further choice.
        costs: (choices, limits), as fractions of the original model.
        errors: (choices,), zero for the first.
    """

    weight: str
    factorings: tuple[Factoring, ...]
    costs: np.ndarray
    errors: np.ndarray


@dataclass(frozen=True)
class Network:
    """A model at chosen widths, whose layers are to be factored.

    Attributes:
        graph, analysis: the captured graph and what is known of it.
        keep_mask: (channels + 1,) bool.
        layers: those that may be factored, by the name of their weight.
        costs: what every choice of widths costs.
        limits: fractions of the original to keep, by name.
        round_to: channels between two layers are multiples of this, where a layer has as many.
    """

    graph: GraphModule
    analysis: Analysis
    keep_mask: np.ndarray
    layers: Mapping[str, Layer]
    costs: CostModel
    limits: Mapping[str, float]
    round_to: int = 1

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the surviving part of a weight."""
        axes = [
            self.analysis.axes.get((name, axis))
            for axis in range(attribute(self.graph, name).dim())
        ]
        full = attribute(self.graph, name).shape
        # Every group of a convolution keeps as many inputs.
        return tuple(
            size
            if ids is None
            else int(self.keep_mask[ids].sum()) // (len(ids) if ids.ndim == 2 else 1)
            for size, ids in zip(full, axes, strict=True)
        )

    def weight(self, name: str) -> Tensor:
        """The surviving part of a weight."""
        return shrink_parameter(
            attribute(self.graph, name).detach(), name, self.analysis, self.keep_mask
        )

    def outputs(self, name: str) -> Tensor:
        """Indices of a layer's surviving outputs."""
        ids = self.analysis.axes.get((name, 0))
        return (
            torch.arange(len(attribute(self.graph, name)))
            if ids is None
            else torch.from_numpy(np.flatnonzero(self.keep_mask[ids]))
        )

    def cost(self) -> np.ndarray:
        """Of everything without factoring, (limits,), as fractions of the original."""
        widths = np.array([int(self.keep_mask[g.blocks[0]].sum()) for g in self.analysis.groups])
        found = self.costs.fractions(widths, self.limits)
        return np.array([found[name] for name in self.limits])

    def layer_costs(self) -> dict[str, np.ndarray]:
        """Of every layer that may be factored, (limits,)."""
        full = self.costs.full
        total = {
            "flops": max(self.costs.flops(full), 1.0),
            "params": max(self.costs.params(full), 1.0),
        }
        flops = {
            c.node: c.flops * math.prod(float(self.keep_mask[f].mean()) for f in c.factors)
            for c in self.analysis.costs
        }
        return {
            name: np.array(
                [
                    {
                        "flops": flops.get(layer.node.name, 0.0),
                        "params": float(math.prod(self.shape(name))),
                    }[limit]
                    / total[limit]
                    for limit in self.limits
                ]
            )
            for name, layer in self.layers.items()
        }

    def stretch(self, layer: Layer) -> float:
        """How many more positions the first of two separable layers has than the layer: its stride
        is not yet taken.
        """
        source, result = (
            self.analysis.values[n.name].shape for n in (layer.node.all_input_nodes[0], layer.node)
        )
        rank = attribute(self.graph, layer.weight).dim() - 2
        return float(source[-rank] / result[-rank]) if rank > 0 else 1.0


def planned_ranks(
    session: Session,
    method: str,
    keep_mask: np.ndarray,
    limits: dict[str, float],
    saving: float = 0.0,
) -> tuple[dict[str, Factoring], dict[str, float]]:
    """Ranks under the limits at given widths, and every factored layer's predicted error.

    Args:
        saving: the least share of a layer's cost that two must save.

    Raises:
        BudgetError: the limits cannot be kept.
    """
    layers = factorable(session.graph, session.ignore)[0]
    multiple = (
        session.round_to if isinstance(session.round_to, int) else max(session.round_to, default=1)
    )
    network = Network(
        session.graph, session.analysis, keep_mask, layers, session.costs({}), limits, multiple
    )
    output_moments = session.output_moments() if method == "pca" else {}
    worth = session.sensitivities() if method == "pca" else {}
    with session.station("allocate"):
        offered: list[Choices] = choices(network, method, output_moments, worth, saving)
        ranks = allocate_ranks(network, offered, minimax=method == "alds")
    return ranks, {
        c.weight: float(c.errors[1 + c.factorings.index(ranks[c.weight])])
        for c in offered
        if c.weight in ranks
    }


def choices(
    network: Network,
    method: str,
    output_moments: Mapping[str, OutputMoments],
    worth: Mapping[str, Tensor] = MappingProxyType({}),
    saving: float = 0.0,
) -> list[Choices]:
    """What may become of every layer.

    Args:
        network: at its widths.
        method: of `METHODS`.
        output_moments: of the original's outputs; `pca` needs them.
        worth: what errors of the layers' outputs cost the model's; without it `pca` counts them
            relative to the layers' own.
        saving: the least share of a layer's cost that two must save.
    """
    costs, result = network.layer_costs(), []
    for name, layer in network.layers.items():
        shape = network.shape(name)
        scale, elements = network.stretch(layer), math.prod(shape)
        factorings: list[Factoring] = []
        table, errors = [costs[name][None]], [np.zeros(1)]
        for form, tail in _curves(network, layer, method, output_moments, worth):
            largest = form.largest(shape)
            step = min(max(network.round_to // (form.groups * form.encoders), 1), largest)
            ranks = np.arange(step, largest + 1, step)
            # Both costs are proportional to the rank.
            first, second = form.sizes(shape)
            relative = {
                "flops": (first * (scale if form.separable else 1.0) + second) / elements,
                "params": (first + second) / elements,
            }
            spent = (
                costs[name]
                * np.array([relative[limit] for limit in network.limits])
                * ranks[:, None]
            )
            pays = (spent < (1 - saving) * costs[name]).any(1)
            factorings += [replace(form, rank=rank) for rank in ranks[pays].tolist()]
            table.append(spent[pays])
            errors.append(tail[ranks[pays]])
        result.append(
            Choices(name, tuple(factorings), np.concatenate(table), np.concatenate(errors))
        )
    return result


def _curves(
    network: Network,
    layer: Layer,
    method: str,
    output_moments: Mapping[str, OutputMoments],
    worth: Mapping[str, Tensor],
) -> list[tuple[Factoring, np.ndarray]]:
    """Every form of factoring a layer, at rank 1, and the error at rank 0, 1, ..."""
    shape, count = network.shape(layer.weight), groups(layer.node)
    if method == "alds":
        encoders = (
            [k for k in range(1, min(ENCODERS, shape[1]) + 1) if shape[1] % k == 0]
            if len(shape) > 2
            else [1]
        )
        forms = [Factoring(1, count, k) for k in encoders]
        return [(form, alds.bounds(form.fold(network.weight(layer.weight)))) for form in forms]
    form = Factoring(1, count, separable=method == "learned-rank" and len(shape) > 2)
    if method == "pca":
        kept = network.outputs(layer.weight)
        covariance = output_moments[layer.weight].covariance(layer.intercept)[kept][:, kept]
        own = worth.get(layer.weight)
        if own is not None:
            own = (
                _blocks(own[kept][:, kept], count)
                if len(own) > 1
                else own * torch.eye(len(kept) // count).to(own)
            )
        tail = pca.dropped(_blocks(covariance, count), own)
    else:
        tail = svd.dropped(form.fold(network.weight(layer.weight)))
    if method == "svd" or method == "pca" and not worth:
        tail = tail / max(float(tail[0]), np.finfo(float).tiny)
    return [(form, tail)]


def _blocks(square: Tensor, count: int) -> Tensor:
    """The diagonal blocks of a matrix, (count, size, size)."""
    size = len(square) // count
    return square.view(count, size, count, size).diagonal(dim1=0, dim2=2).movedim(-1, 0)


def allocate_ranks(
    network: Network, offered: Sequence[Choices], minimax: bool
) -> dict[str, Factoring]:
    """`allocate_choices` for the layers of a network."""
    fixed = network.cost() - sum((c.costs[0] for c in offered), np.zeros(len(network.limits)))
    return allocate_choices(offered, fixed, network.limits, minimax)


def allocate_choices(
    offered: Sequence[Choices], fixed: np.ndarray, bounds: Mapping[str, float], minimax: bool
) -> dict[str, Factoring]:
    """The choices with the smallest sum, or the smallest maximum, of errors that keep every limit;
    layers left alone do not appear.

    The sum is minimized for a price of cost that is bisected, as in learned-rank compression
    (Idelbayev & Carreira-Perpinan, CVPR 2020). The maximum needs no restarts from random encoders,
    as the reference implementation of ALDS makes them: at a given maximum the cheapest choices of
    different layers do not depend on each other.

    Args:
        offered: per layer.
        fixed: (limits,) cost of everything else.
        bounds: the limits.
        minimax: whether the largest error counts, not the sum.

    Raises:
        BudgetError: not even the cheapest choices keep the limits.
    """
    limits = np.array(list(bounds.values()))

    def spent(picks: Sequence[int]) -> np.ndarray:
        return fixed + sum(
            (c.costs[i] for c, i in zip(offered, picks, strict=True)), np.zeros(len(limits))
        )

    def fits(picks: Sequence[int]) -> bool:
        return bool((spent(picks) <= limits + 1e-9).all())

    alone = [0] * len(offered)
    if fits(alone):
        return {}
    # One limit may bind while another has room: each is priced alone, and all together.
    mixes = np.unique(np.vstack([np.eye(len(limits)), np.ones(len(limits))]), axis=0)
    priced = [[(c.costs / limits) @ mix for c in offered] for mix in mixes]
    frugal = [[int(np.argmin(cost)) for cost in costs] for costs in priced]
    cheapest = next((picks for picks in frugal if fits(picks)), frugal[-1])
    if not fits(cheapest):
        asked = ", ".join(f"{k}={v:g}" for k, v in bounds.items())
        closest = ", ".join(f"{k}={v:.3f}" for k, v in zip(bounds, spent(cheapest), strict=True))
        raise BudgetError(
            f"The budget {asked} cannot be reached by factoring: with rank 1 wherever that pays "
            f"the model keeps {closest}. The rest lies in "
            "layers that cannot be factored; fxprune.compress removes channels."
        )
    merit = max if minimax else sum
    found = [cheapest]
    for costs in priced:
        picks = _bisect(lambda at, costs=costs: _pick(offered, costs, at, minimax), fits)  # type: ignore[misc]
        found.append(_fill(offered, costs, picks, fits) if picks else cheapest)
    best = min(
        found,
        key=lambda picks: merit(float(c.errors[i]) for c, i in zip(offered, picks, strict=True)),
    )
    return {c.weight: c.factorings[i - 1] for c, i in zip(offered, best, strict=True) if i}


def _pick(
    offered: Sequence[Choices], costs: Sequence[np.ndarray], at: float, minimax: bool
) -> list[int]:
    """Per layer the best choice at a price, or the cheapest below a maximum error."""
    if minimax:
        return [
            int(np.argmin(np.where(c.errors <= at, cost, np.inf)))
            for c, cost in zip(offered, costs, strict=True)
        ]
    return [int(np.argmin(c.errors + at * cost)) for c, cost in zip(offered, costs, strict=True)]


def _bisect(
    pick: Callable[[float], list[int]], fits: Callable[[Sequence[int]], bool]
) -> list[int] | None:
    """The picks at the smallest parameter between 1e-12 and 1e12 that fit; larger ones are cheaper
    and err more.
    """
    low, high, best = -12.0, 12.0, None
    for _ in range(40):
        middle = (low + high) / 2
        picks = pick(10.0**middle)
        if fits(picks):
            best, high = picks, middle
        else:
            low = middle
    return best


def _fill(
    offered: Sequence[Choices],
    costs: Sequence[np.ndarray],
    picks: list[int],
    fits: Callable[[Sequence[int]], bool],
) -> list[int]:
    """Spend what is left over where it lowers the error most."""
    open_layers = set(range(len(offered)))
    while open_layers:
        best, gain = None, 0.0
        for i in sorted(open_layers):
            here, found = picks[i], None
            better = np.flatnonzero(
                (offered[i].errors < offered[i].errors[here]) & (costs[i] > costs[i][here])
            )
            for j in better[np.argsort(costs[i][better])]:
                if fits([*picks[:i], int(j), *picks[i + 1 :]]):
                    found = int(j)
                break
            if found is None:
                open_layers.discard(i)
            elif offered[i].errors[here] - offered[i].errors[found] > gain:
                best, gain = (i, found), float(offered[i].errors[here] - offered[i].errors[found])
        if best is None:
            break
        picks = [*picks[: best[0]], best[1], *picks[best[0] + 1 :]]
    return picks
