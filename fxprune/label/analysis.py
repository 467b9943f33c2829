"""Station 2: run the graph on channel labels, solve for what lives or dies together, and prove it
by trial.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from fxprune.errors import PlanError, UnsupportedError
from fxprune.graph.nodes import constants
from fxprune.label.coupling import Coupling, solve
from fxprune.label.flops import costs
from fxprune.label.groups import Analysis
from fxprune.label.keep import keep_apart, keep_random
from fxprune.label.propagation import Propagation
from fxprune.label.survivors import Conflict
from fxprune.label.trial import conflicts
from fxprune.label.vanishing import lasting
from fxprune.rules.labels import Value, distinct
from fxprune.rules.recorder import Product, Recorder


def analyze_graph(
    module: GraphModule, batch: int, ignore: Callable[[str], bool] = lambda name: False
) -> Analysis:
    """Find the channel groups of a captured graph.

    Groups of several blocks (heads, convolution groups) choose freely in each block where that
    works: a random choice in every group is tried on the labels, and groups whose channels then do
    not meet have their blocks tied, or are pinned where even that fails. What is returned has
    passed such a trial. Attention whose heads may go as a whole is also analyzed with the heads
    staying, and what frees more is returned.

    Args:
        module: output of `capture`.
        batch: examples in the traced batch.
        ignore: parameter names that must keep their shape.
    """
    analysis, heads = _settle(module, batch, ignore, whole_heads=True)
    if heads:
        analysis = max(analysis, _settle(module, batch, ignore, whole_heads=False)[0], key=_free)
    return replace(analysis, costs=costs(module, analysis.values, batch))


def activations(module: GraphModule, analysis: Analysis) -> list[float]:
    """Bytes per example of every call's result that depends on an input."""
    constant = constants(module)
    calls = [n.name for n in module.graph.nodes if n.op == "call_function" and n not in constant]
    values = [v for name in calls if isinstance(v := analysis.values.get(name), Value)]
    return [math.prod(v.shape) * v.dtype.itemsize / analysis.batch for v in values]


def examples_within(limit: float, each: float, most: int) -> int:
    """How many examples of so many bytes each fit into a limit; at least one, at most `most`."""
    return int(min(max(limit / max(each, 1), 1), most))


def _settle(
    module: GraphModule, batch: int, ignore: Callable[[str], bool], whole_heads: bool
) -> tuple[Analysis, bool]:
    """An analysis that has passed its trial, and whether labels of entire heads took part in it."""
    run = Propagation(module, ignore, whole_heads)
    run.run()
    coupling = solve(module, run, batch)
    last = lasting(coupling.analysis.values, run.record.products, coupling.id_of)
    for product in last:
        run.record.node = product.where
        run.record.pin(product.labels, product.reason)
    if last:
        coupling = solve(module, run, batch)
    while met := _trial(module, coupling.analysis):
        for conflict in met:
            _give_way(run.record, coupling, conflict)
        coupling = solve(module, run, batch)
    normalized = _normalized(coupling, run.record.products)
    return replace(coupling.analysis, normalized=normalized), run.record.met_heads


def _normalized(coupling: Coupling, products: Iterable[Product]) -> frozenset[str]:
    """Groups over whose channels something is summed."""
    analysis, owner = coupling.analysis, coupling.analysis.group_of()
    found = set[int]()
    for product in products:
        if product.left is product.right:
            found.update(np.unique(owner[coupling.id_of[distinct(product.labels)]]).tolist())
    return frozenset(analysis.groups[i].name for i in found if i >= 0)


def _free(analysis: Analysis) -> float:
    """How many entries of all weight axes may go."""
    return float(sum((ids > 0).sum() for ids in analysis.axes.values()))


def _trial(module: GraphModule, analysis: Analysis, seed: int = 0) -> list[Conflict]:
    """Remove channels from every group, at random and so that every two blocks differ, and run the
    labels through what is left.
    """
    if not analysis.groups:
        return []
    for keep_mask in (keep_random(analysis, np.random.default_rng(seed)), *keep_apart(analysis)):
        found = conflicts(module, analysis, keep_mask)
        if found:
            return found
    return []


def _give_way(record: Recorder, coupling: Coupling, conflict: Conflict) -> None:
    """Tie the blocks of the groups in a conflict; pin them where they are tied already."""
    analysis = coupling.analysis
    owner = analysis.group_of()[conflict.labels.reshape(-1).numpy()]
    groups = [analysis.groups[i] for i in np.unique(owner[owner >= 0]).tolist()]
    if not groups:
        raise PlanError(
            f"label propagation does not reproduce itself at {conflict.where}: {conflict}"
        )
    blocked = [g for g in groups if len(g.blocks) > 1]
    for group in blocked:
        rows = torch.from_numpy(coupling.label[group.blocks])
        record.edges.append(_pairs(rows[1:], rows[:1].expand(len(rows) - 1, -1)))
    if not blocked:
        record.node = conflict.where
        for group in groups:
            record.pin(
                torch.from_numpy(coupling.label[group.blocks]),
                "the channels do not fit together once some are removed",
            )


def _pairs(left: Tensor, right: Tensor) -> Tensor:
    return torch.stack([left.reshape(-1), right.reshape(-1)], 1)


def nothing_to_reduce(analysis: Analysis) -> UnsupportedError:
    """What is said of a model without a channel group."""
    reasons = "; ".join(dict.fromkeys(f"{p.parameter}: {p.reason}" for p in analysis.pinned[:5]))
    return UnsupportedError(
        "The model has no channel group that can be reduced. "
        f"{reasons or 'No weight feeds another'}. fxprune.factorize lowers the ranks of its layers "
        "instead; operators without a rule can be taught one (docs/rules.md)."
    )
