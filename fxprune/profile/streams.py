"""Residual streams that may be rotated: norms free of per-channel work stand on them.

A norm's mean is folded into what writes the stream, its scale and shift into what reads it
(`fxprune.passes.FoldNorms`), and a layer's scale into the layer (`FoldScales`); what is left
commutes with every orthonormal change of basis. Whether that can be done is tried on the graph
itself: norms written out become calls, those of a stream are folded where all of them can be, and
what is left is labeled and tried as any other graph is.

Where more can be rotated so, linear layers that change nothing are put where norms leave
something that no other layer takes (`InsertMaps`): behind a norm whose output is the next stream,
or before a head that is the embedding. They are layers like others from then on, and cost what
these do.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch.fx import GraphModule

from fxprune.graph.operators import operator_name
from fxprune.label.groups import Analysis, ChannelGroup
from fxprune.passes import FuseNorms
from fxprune.passes.stream_edges import LAYER
from fxprune.profile.folding import Folded, Streams, labeled, settle
from fxprune.profile.mapped import Maps, copied
from fxprune.profile.statistics import Statistics
from fxprune.rules.linear import NORMS

WRITTEN_OUT = "aten.mean"
"""What a forward writes a norm out with."""


def prepare_streams(
    module: GraphModule,
    analysis: Analysis,
    ignored: Callable[[str], bool],
    dearest: float = math.inf,
) -> Streams:
    """Fold norms where that lets a stream be rotated.

    Args:
        module: the captured graph; not changed.
        analysis: of that graph.
        ignored: parameter names that must keep their shape.
        dearest: share of the FLOPs that maps may add, where more can be rotated with them.
    """
    if not analysis.normalized and not _calls(module, {LAYER, *NORMS, WRITTEN_OUT}):
        return Streams()
    source = _fused(module, analysis)
    normed = _calls(source, {LAYER, *NORMS})
    if not analysis.normalized and not normed:
        return Streams()  # what looked like a norm written out is, say, a pooling
    folded = Folded.of(source, analysis, sorted(analysis.normalized))
    mapped = None
    if dearest > 0 and normed:
        most = dearest * sum(term.amount for term in analysis.costs)
        mapped = _with_maps(Maps.of(source, analysis.batch), most, ignored)
    reasons: Mapping[str, str] = folded.norms.reasons
    if mapped is None or not _held(mapped) > folded.members:  # else no label is needed
        plain = settle(folded, source, ignored)
        if mapped is None or not _held(mapped) > _held(plain):
            return plain
        reasons = plain.reasons
    why = {**reasons, **mapped.reasons}
    left = {name: reason for name, reason in why.items() if name not in mapped.centered}
    return replace(mapped, reasons=left)


def fold_again(
    module: GraphModule, analysis: Analysis, streams: Collection[str], maps: Collection[str]
) -> GraphModule | None:
    """The graph with these maps, the norms of these streams folded; None where they cannot be. Its
    tensors lie where the module's lie, those that do not change.

    Args:
        module: the captured graph; not changed.
        analysis: of that graph.
        streams: names of channel groups of the graph with the maps.
        maps: names.
    """
    mapped = Maps.of(_fused(module, analysis), analysis.batch).insert(maps, _nothing)
    if mapped is None or not set(streams) <= mapped.analysis.normalized:
        return None
    found = labeled(Folded.of(mapped.graph, mapped.analysis, streams), _nothing)
    return found.graph if set(streams) <= set(found.centered) else None


def _calls(module: GraphModule, names: Collection[str]) -> bool:
    """Whether a graph calls one of these operators."""
    return any(operator_name(node.target) in names for node in module.graph.nodes)


def _fused(module: GraphModule, analysis: Analysis) -> GraphModule:
    """A copy of which the norms are calls."""
    source = copied(module)
    FuseNorms(analysis)(source)
    return source


def _with_maps(maps: Maps, most: float, ignored: Callable[[str], bool]) -> Streams | None:
    """What may be rotated with those maps that serve; None where there are none.

    Args:
        maps: that there are places for.
        most: FLOPs that they may add.
        ignored: parameter names that must keep their shape.
    """
    chosen: Collection[str] = maps.within(most)
    while chosen:
        inserted = maps.insert(chosen, ignored)
        assert inserted is not None
        wanted = sorted(inserted.analysis.normalized)
        folded = Folded.of(inserted.graph, inserted.analysis, wanted)
        found = settle(folded, inserted.graph, ignored)
        serving = _serving(found, inserted.names)
        if len(serving) == len(chosen):
            return replace(found, maps=tuple(chosen))
        chosen = serving
    return None


def _nothing(name: str) -> bool:
    return False


def _serving(found: Streams, maps: Collection[str]) -> list[str]:
    """The maps that write one of the streams, or read one that something else reads too: one that
    a map alone reads is no narrower than a layer of lower rank.
    """
    written, read = list[Any](), list[Any]()
    for group in _groups(found):
        written.append(group.blocks)
        if len({consumer.parameter for consumer in group.consumers}) > 1:
            read.append(group.blocks)

    def serves(name: str) -> bool:
        axes = {} if found.analysis is None else found.analysis.axes
        return any(
            np.isin(axes[f"{name}.weight", axis], ids).any()
            for axis, streams in enumerate((written, read))
            for ids in streams
        )

    return [name for name in maps if serves(name)]


def _groups(found: Streams) -> list[ChannelGroup]:
    """The streams."""
    groups = () if found.analysis is None else found.analysis.groups
    return [group for group in groups if group.name in found.centered]


def _held(found: Streams) -> set[tuple[str, int]]:
    """The weight axes of the original that hold channels of the streams."""
    weights = {f"{name}.{leaf}" for name in found.maps for leaf in ("weight", "bias")}
    members = {member for group in _groups(found) for member in group.members}
    return {member for member in members if member[0] not in weights}


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
