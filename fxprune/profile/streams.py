"""Residual streams that may be rotated: norms free of per-channel work stand on them.

A norm's mean is folded into what writes the stream, its scale and shift into what reads it
(`fxprune.passes.FoldNorms`), and a layer's scale into the layer (`FoldScales`); what is left
commutes with every orthonormal change of basis. Whether that can be done is tried on the graph
itself: norms written out become calls, those of a stream are folded where all of them can be, and
what is left is labeled and tried as any other graph is.
"""

import copy
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch.fx import GraphModule

from fxprune.graph.tensors import owner_of
from fxprune.label.analysis import analyze_graph
from fxprune.label.groups import Analysis, ChannelGroup
from fxprune.label.rotatable import mark_rotatable
from fxprune.passes import FoldNorms, FoldScales, FuseNorms
from fxprune.passes.facts import tensors_of
from fxprune.profile.statistics import Statistics

OTHERWISE = "its channels stand in another order somewhere"


@dataclass(frozen=True, eq=False)
class Streams:
    """A graph whose streams may be rotated, and the channel groups that are no such streams.

    Attributes:
        graph: of the same function, the norms of these streams folded; None where there are none.
        analysis: of that graph, with what may be rotated.
        centered: by the name of each stream, whether its channels have no mean.
        folded: parameters of the original that the graph does without, and what stands for them in
            the original.
        reasons: why other groups that are normalized may not be rotated, by name.
    """

    graph: GraphModule | None = None
    analysis: Analysis | None = None
    centered: Mapping[str, bool] = field(default_factory=dict)
    folded: Mapping[str, float] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)


def prepare_streams(
    module: GraphModule, analysis: Analysis, ignored: Callable[[str], bool]
) -> Streams:
    """Fold norms where that lets a stream be rotated.

    Args:
        module: the captured graph; not changed.
        analysis: of that graph.
        ignored: parameter names that must keep their shape.
    """
    wanted, reasons = sorted(analysis.normalized), dict[str, str]()
    while wanted:
        found = _fold(module, analysis, wanted, ignored)
        reasons |= found.reasons
        if len(found.centered) == len(wanted):
            return replace(found, reasons=reasons)
        wanted = list(found.centered)
    return Streams(reasons=reasons)


def on_streams(statistics: Statistics, streams: Streams) -> Statistics:
    """What the calibration examples say about the graph with folded norms, nothing of it asked yet.

    Args:
        statistics: of the original.
        streams: of its graph, of which some may be rotated.
    """
    assert streams.graph is not None
    assert streams.analysis is not None
    return replace(
        statistics,
        graph=streams.graph,
        analysis=streams.analysis,
        compare_features=False,
        centered=streams.centered,
    )


def _fold(
    module: GraphModule,
    analysis: Analysis,
    wanted: Collection[str],
    ignored: Callable[[str], bool],
) -> Streams:
    """The graph with the norms of these groups folded, and which of these may then be rotated."""
    scales, fold = FoldScales(analysis), FoldNorms(analysis, wanted)
    for sharing in (True, False):  # weights are copied where they will be changed
        graph = _copied(module, sharing)
        FuseNorms(analysis)(graph)
        if sharing and not scales.finds(graph) and not fold.decide(graph):
            return Streams(reasons=fold.reasons)
    scales(graph)
    fold(graph)
    if not fold.whole:
        return Streams(reasons=fold.reasons)
    folded = {**scales.folded, **fold.folded}
    for name in folded:
        owner, leaf = owner_of(graph, name)
        delattr(owner, leaf)
    marked = mark_rotatable(graph, analyze_graph(graph, analysis.batch, ignored), norms=True)
    centered, reasons = dict[str, bool](), dict(fold.reasons)
    before = {group.name: group for group in analysis.groups}
    after = {group.name: group for group in marked.groups}
    for name, mean in fold.whole.items():
        reason = _why_not(marked, before[name], after.get(name))
        if reason:
            reasons[name] = reason
        else:
            centered[name] = mean
    return Streams(graph, marked, centered, folded, reasons)


def _copied(module: GraphModule, sharing: bool) -> GraphModule:
    """A copy of a graph, with the same tensors or copies of these."""
    memo: dict[int, Any] = {id(t): t for t in tensors_of(module).values()} if sharing else {}
    with warnings.catch_warnings():
        # torch's own pytree specs warn about themselves when copied.
        warnings.simplefilter("ignore", FutureWarning)
        return copy.deepcopy(module, memo)


def _why_not(analysis: Analysis, before: ChannelGroup, after: ChannelGroup | None) -> str:
    """Why a group whose norms were folded is no stream to rotate; nothing where it is one."""
    if after is None or after.blocks.shape != before.blocks.shape:
        return "its channels are not the same without the norms' weights"
    if after.name not in analysis.rotatable:
        return analysis.unmixed[after.name]
    (block,) = after.blocks
    for ids in analysis.axes.values():
        if np.isin(ids, block).any() and not np.array_equal(ids, block):
            return OTHERWISE
    return ""
