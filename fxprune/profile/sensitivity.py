r"""How much an error in a layer's output matters to the model's, by probes of its Jacobian.

For a layer output z of one example and the model output f, \|df\|^2 = dz^T J^T J dz to first
order. With v ~ N(0, I) the gradient g of v^T f by z has E[g g^T] = J^T J (Hutchinson's estimator),
so one backward pass per example is enough. Errors at different positions are taken as
uncorrelated, which leaves one (outputs, outputs) matrix per layer (docs/decisions/0009).
"""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fxprune.calibrate.batching import Place, seed_of
from fxprune.calibrate.moments import Site, sites
from fxprune.calibrate.observe import Observer, arguments
from fxprune.calibrate.padding import EVERYWHERE, Padding
from fxprune.capture.batch import Batch
from fxprune.distributed.sums import BY_ITSELF, Sums
from fxprune.graph.convolution import OUTPUTS_FIRST
from fxprune.graph.nodes import attribute
from fxprune.graph.operators import operator_name
from fxprune.graph.recurrent import read_recurrent, recurrent_of
from fxprune.label.analysis import activations, examples_within
from fxprune.label.groups import Analysis
from fxprune.label.layers import MOST_OUTPUTS, own_layers
from fxprune.linalg.tree_sum import Settle, TreeSum
from fxprune.profile.probe import Draws, energies_of, judged, probe
from fxprune.profile.steps import run_steps

CHUNK = 64
"""Most examples whose activations are held at once."""


def sensitivities(
    module: GraphModule,
    analysis: Analysis,
    batches: Iterable[tuple[Place, Batch]],
    seed: int,
    memory: float = 2e9,
    padding: Padding = EVERYWHERE,
    sums: Sums = BY_ITSELF,
    settle: Settle | None = None,
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

    Returns:
        (outputs, outputs) float64 by consumed weight axis; (1, 1), to be taken as a multiple
        of I, where the weight's output axis is not its first or has more than `MOST_OUTPUTS`.

    Raises:
        RuntimeError: the model's operators have no derivative.
    """
    watched = _weights_of_calls(module, analysis)
    chunk = examples_within(memory, sum(activations(module, analysis)), CHUNK)
    totals, failed = _Totals(sums, watched, settle), None
    try:
        for place, batch in batches:
            draws = Draws(seed_of(seed, place))
            totals.start(place.leaf)
            parts = [batch.part(at, at + chunk) for at in range(0, batch.size, chunk)]
            energies = energies_of(module, parts, padding) if len(parts) > 1 else None
            for part in parts:
                for own in _gradients(module, part, watched, draws, padding, energies):
                    site, operator, gradient = own
                    totals.add(site, _rows(gradient, attribute(module, site[0]), site[1], operator))
    except (RuntimeError, NotImplementedError) as error:
        failed = error
    told = sums.group.gather(None if failed is None else str(failed), "derivatives")
    reason = next((text for text in told if text is not None), None)
    if reason is not None:
        raise failed or RuntimeError(reason)
    return totals.result()


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

    def start(self, leaf: int) -> None:
        """Count another chunk of examples."""
        self._leaf = leaf
        self._chunks.add(leaf, [torch.tensor(1)])

    def add(self, site: Site, flat: Tensor) -> None:
        """Count a chunk's gradients, (positions, outputs)."""
        trees = self._multiples if flat.shape[1] == 1 else self._matrices
        trees[site].add(self._leaf, [flat.mT @ flat, torch.tensor(len(flat))])

    def result(self) -> dict[Site, Tensor]:
        """By weight, as `sensitivities` gives them; of those that have a gradient."""
        sites = list(self._matrices)
        trees = [self._chunks, *self._matrices.values(), *self._multiples.values()]
        chunks, *found = self._sums.totals(trees, "sensitivities")
        result = {}
        pairs = zip(found[: len(sites)], found[len(sites) :], strict=True)
        for site, (matrix, multiple) in zip(sites, pairs, strict=True):
            own = [terms for terms in (matrix, multiple) if terms is not None]
            if own and chunks is not None:
                total = functools.reduce(_sum, (total for total, _ in own))
                rows = sum(int(rows) for _, rows in own)
                result[site] = _shrink(total, rows).div_(int(chunks[0]))
        return result


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


class _Outputs(Observer):
    """Runs the graph and keeps what watched weights give, to be differentiated by.

    Recurrent layers run step by step: the errors of their weights are made inside.

    Args:
        module: the captured graph.
        watched: weights by the names of the calls that read them.
        finite: whether derivatives by a call's result that are not finite count as zero: what a
            `where` throws away has no say in the output, but zero times infinity is NaN.

    Attributes:
        kept: per weight the operator that reads it and what it gave.
    """

    def __init__(
        self, module: GraphModule, watched: Mapping[str, Sequence[Site]], finite: bool = False
    ):
        super().__init__(module)
        self._watched, self._finite = watched, finite
        self.kept: list[tuple[Site, str, Tensor]] = []

    def run_node(self, n: Node) -> Any:
        result = self._run_watched(n)
        if self._finite:
            for value in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(value, Tensor) and value.requires_grad:
                    value.register_hook(_finite_part)
        return result

    def _run_watched(self, n: Node) -> Any:
        sites = self._watched.get(n.name)
        if sites is None:
            return super().run_node(n)
        name = operator_name(n.target)
        if recurrent_of(n) is not None:
            how = read_recurrent(name, self.fetch_args_kwargs_from_env(n)[0])
            if how is not None and len(how.layers) == 1:
                result, given = run_steps(how)
                own = {id(self.here(attribute(self.module, site[0]))): site for site in sites}
                for weight, value in given:
                    if id(weight) in own:
                        self._keep(own[id(weight)], "aten.linear", value)
                return result
        result = super().run_node(n)
        self._keep(sites[0], name, result)
        return result

    def _keep(self, site: Site, operator: str, value: Tensor) -> None:
        if not value.requires_grad:
            value.requires_grad_()
        self.kept.append((site, operator, value))


def _gradients(
    module: GraphModule,
    batch: Batch,
    watched: Mapping[str, Sequence[Site]],
    draws: Draws,
    padding: Padding,
    energies: Sequence[float] | None,
) -> Iterator[tuple[Site, str, Tensor]]:
    """Derivatives of one probe of the model's output by what weights give, where there are any,
    with the operators that read the weights.
    """
    before = draws.states()
    for finite in (False, True):
        draws.restore(before)
        with torch.enable_grad():
            observer = _Outputs(module, watched, finite)
            outputs = observer.run(*arguments(module, batch), enable_io_processing=False)
            probed = probe(judged(module, outputs, batch, padding), draws, energies)
            gradients = torch.autograd.grad(
                probed, [value for *_, value in observer.kept], allow_unused=True
            )
        if all(bool(torch.isfinite(g).all()) for g in gradients if g is not None):
            break
    for (site, operator, _), gradient in zip(observer.kept, gradients, strict=True):
        if gradient is not None:
            yield site, operator, gradient


def _finite_part(gradient: Tensor) -> Tensor:
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)


def _rows(gradient: Tensor, weight: Tensor, axis: int, operator: str) -> Tensor:
    """A gradient as (positions, outputs).

    (elements, 1) of mean output where one matrix of all outputs is not to be had.
    """
    if operator not in OUTPUTS_FIRST or len(weight) > MOST_OUTPUTS:
        return gradient.reshape(-1, 1) / math.sqrt(weight.numel() // weight.shape[axis])
    channel = -1 if operator == "aten.linear" else gradient.dim() - weight.dim() + 1
    return gradient.movedim(channel, -1).reshape(-1, gradient.shape[channel])


def _shrink(total: Tensor, rows: int) -> Tensor:
    """Shrink a sum over gradients, in place, towards a multiple of the identity (cf. Ledoit & Wolf
    2004).

    The more the fewer gradients there are per output (docs/decisions/0009).
    """
    share = len(total) / (len(total) + rows)
    mean = float(total.diagonal().mean())
    total.mul_(1 - share).diagonal().add_(share * mean)
    return total
