r"""How much an error in a layer's output matters to the model's, by probes of its Jacobian.

For a layer output z of one example and the model output f, \|df\|^2 = dz^T J^T J dz to first
order. With v ~ N(0, I) the gradient g of v^T f by z has E[g g^T] = J^T J (Hutchinson's estimator),
so one backward pass per example is enough. Errors at different positions are taken as
uncorrelated, which leaves one (outputs, outputs) matrix per layer (docs/decisions/0009); what they
cost once they add up is measured on the way, as one number (`coherence`).
"""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor
from torch.fx import GraphModule

from fxprune.calibrate.batching import Place, seed_of
from fxprune.calibrate.moments import InputMoments, Site, sites
from fxprune.calibrate.padding import EVERYWHERE, Padding
from fxprune.capture.batch import Batch
from fxprune.distributed.sums import BY_ITSELF, Sums
from fxprune.graph.convolution import OUTPUTS_FIRST
from fxprune.graph.nodes import attribute
from fxprune.label.analysis import activations, examples_within
from fxprune.label.groups import Analysis
from fxprune.label.layers import MOST_OUTPUTS, own_layers
from fxprune.linalg.tree_sum import Settle, TreeSum
from fxprune.profile.coherence import effects, factor, foreseen, level, typical_errors
from fxprune.profile.gradients import Outputs, gradients
from fxprune.profile.probe import Draws, energies_of

CHUNK = 64
"""Most examples whose activations are held at once."""
NOTHING: Mapping[Site, InputMoments] = MappingProxyType({})
"""No moments."""


def sensitivities(
    module: GraphModule,
    analysis: Analysis,
    batches: Iterable[tuple[Place, Batch]],
    seed: int,
    memory: float = 2e9,
    padding: Padding = EVERYWHERE,
    sums: Sums = BY_ITSELF,
    settle: Settle | None = None,
    moments: Mapping[Site, InputMoments] = NOTHING,
    others: Mapping[Site, InputMoments] = NOTHING,
) -> dict[Site, Tensor]:
    """For every layer and consumed weight G, tr(G C) being the model's relative squared error.

    C is the mean outer product of an output error of the layer at one position. Where the model
    gives several tensors, each counts relative to its own (centered) energy.

    Args:
        module: the captured graph.
        analysis: of that graph.
        batches: calibration examples; a few hundred do. Those that this rank works on.
        seed: of the probes.
        memory: bytes that the activations of one backward pass may take.
        padding: whose outputs do not matter.
        sums: who works on the others.
        settle: finds a place for sums; without it they are in memory.
        moments: of what weights read; with them, errors at different positions of an example add
            up as they do, and without they are uncorrelated.
        others: likewise on examples that are not among those, as the batches' are.

    Returns:
        (outputs, outputs) float64 by consumed weight axis; (1, 1), to be taken as a multiple
        of I, where the weight's output axis is not its first or has more than `MOST_OUTPUTS`.

    Raises:
        RuntimeError: the model's operators have no derivative.
    """
    watched = _weights_of_calls(module, analysis)
    chunk = examples_within(memory, sum(activations(module, analysis)), CHUNK)
    errors = typical_errors(module, moments, settle)
    totals, failed = _Totals(sums, watched, settle), None
    try:
        for place, batch in batches:
            draws = Draws(seed_of(seed, place))
            totals.start(place.leaf)
            parts = [batch.part(at, at + chunk) for at in range(0, batch.size, chunk)]
            energies = energies_of(module, parts, padding) if len(parts) > 1 else None
            for part in parts:
                done = dict[Site, Tensor]()
                run = partial(Outputs, module, watched, errors)
                for given, gradient in gradients(module, part, run, draws, padding, energies):
                    weight = attribute(module, given.site[0])
                    totals.add(given.site, _rows(gradient, weight, given.site[1], given.operator))
                    if given.error is not None:
                        own = effects(gradient, given.error(), part.size)
                        done[given.site] = own + done.get(given.site, 0)  # of its other calls
                for site, total in done.items():
                    totals.see(site, total.square().sum().cpu())
    except (RuntimeError, NotImplementedError) as error:
        failed = error
    told = sums.group.gather(None if failed is None else str(failed), "derivatives")
    reason = next((text for text in told if text is not None), None)
    if reason is not None:
        raise failed or RuntimeError(reason)
    found, costs = totals.result()
    known = {}
    for site, cost in costs.items():
        expect = partial(foreseen, errors[site[0]], found[site], groups=_groups(analysis, site))
        fitted = expect(moments[site])
        known[site] = factor(cost, fitted, expect(others[site]) if site in others else fitted)
    level(found, known)
    return found


def _groups(analysis: Analysis, site: Site) -> int:
    """Of the convolution that reads a weight."""
    ids = analysis.axes[site]
    return len(ids) if ids.ndim == 2 else 1


class _Totals:
    """Sums over gradients, by weight; those of one number an output apart, which stand for
    multiples of I.

    Args:
        sums: who works on which examples.
        watched: weights by the calls that read them.
        settle: finds a place for sums.
    """

    def __init__(
        self, sums: Sums, watched: Mapping[str, Sequence[Site]], settle: Settle | None = None
    ):
        self._sums, self._chunks, self._leaf = sums, sums.tree(), 0
        sites = dict.fromkeys(site for own in watched.values() for site in own)
        self._matrices: dict[Site, TreeSum] = {site: sums.tree(settle) for site in sites}
        self._multiples: dict[Site, TreeSum] = {site: sums.tree() for site in sites}
        self._seen: dict[Site, TreeSum] = {site: sums.tree() for site in sites}

    def start(self, leaf: int) -> None:
        """Count another chunk of examples."""
        self._leaf = leaf
        self._chunks.add(leaf, [torch.tensor(1)])

    def add(self, site: Site, flat: Tensor) -> None:
        """Count a chunk's gradients, (positions, outputs)."""
        trees = self._multiples if flat.shape[1] == 1 else self._matrices
        trees[site].add(self._leaf, [flat.mT @ flat, torch.tensor(len(flat))])

    def see(self, site: Site, effect: Tensor) -> None:
        """Count what a weight's error costs on a chunk."""
        self._seen[site].add(self._leaf, [effect])

    def result(self) -> tuple[dict[Site, Tensor], dict[Site, float]]:
        """By weight, what output errors of those that have a gradient cost, and what the errors
        cost that were seen.
        """
        sites = list(self._matrices)
        trees = [self._matrices, self._multiples, self._seen]
        every = [self._chunks, *(tree for own in trees for tree in own.values())]
        chunks, *found = self._sums.totals(every, "sensitivities")
        count = 1 if chunks is None else int(chunks[0])
        matrices, multiples, seen = (
            dict(zip(sites, found[at : at + len(sites)], strict=True))
            for at in range(0, 3 * len(sites), len(sites) or 1)
        )
        result = {}
        for site in sites:
            own = [terms for terms in (matrices[site], multiples[site]) if terms is not None]
            if own:
                total = functools.reduce(_sum, (total for total, _ in own))
                result[site] = _shrink(total, sum(int(rows) for _, rows in own)).div_(count)
        costs = {site: float(own[0]) / count for site, own in seen.items() if own is not None}
        return result, costs


def _sum(matrix: Tensor, multiple: Tensor) -> Tensor:
    """Of calls that consume one weight axis, in the place of the first; (1, 1) stands for a
    multiple of I.
    """
    matrix.diagonal().add_(float(multiple))
    return matrix


def _weights_of_calls(module: GraphModule, analysis: Analysis) -> dict[str, list[Site]]:
    """Calls whose output errors matter: those that consume channels, and layers of their own."""
    result: dict[str, list[Site]] = {}
    for site, consumers in sites(analysis).items():
        for consumer in consumers:
            result.setdefault(consumer.node, []).append(site)
    for layer in own_layers(module).values():
        result |= {call.name: [(layer.weight, 1)] for call in layer.calls}
    return result


def _rows(gradient: Tensor, weight: Tensor, axis: int, operator: str) -> Tensor:
    """A gradient as (positions, outputs).

    (elements, 1) of mean output where one matrix of all outputs is not to be had.
    """
    if operator in OUTPUTS_FIRST and len(weight) <= MOST_OUTPUTS:
        channel = -1 if operator == "aten.linear" else gradient.dim() - weight.dim() + 1
        if gradient.shape[channel] == len(weight):  # not of a part of the weight (chunk, split)
            return gradient.movedim(channel, -1).reshape(-1, len(weight))
    return gradient.reshape(-1, 1) / math.sqrt(weight.numel() // weight.shape[axis])


def _shrink(total: Tensor, rows: int) -> Tensor:
    """Shrink a sum over gradients, in place, towards a multiple of the identity (cf. Ledoit & Wolf
    2004).

    The more the fewer gradients there are per output (docs/decisions/0009).
    """
    share = len(total) / (len(total) + rows)
    mean = float(total.diagonal().mean())
    total.mul_(1 - share).diagonal().add_(share * mean)
    return total
