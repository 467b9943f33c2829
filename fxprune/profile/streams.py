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
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule

from fxprune.graph.tensors import owner_of
from fxprune.label.analysis import analyze_graph
from fxprune.label.groups import Analysis, ChannelGroup
from fxprune.label.rotatable import mark_rotatable
from fxprune.linalg.rotation import mirrored
from fxprune.passes import FoldNorms, FoldScales, FuseNorms, KeepMeans
from fxprune.profile.mapped import Maps, copied
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
        maps: names of the layers that the original does not have.
    """

    graph: GraphModule | None = None
    analysis: Analysis | None = None
    centered: Mapping[str, bool] = field(default_factory=dict)
    folded: Mapping[str, float] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    maps: tuple[str, ...] = ()


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
    plain = _fold_most(module, analysis, ignored)
    maps = Maps.of(module, analysis) if dearest > 0 else None
    if maps is None:
        return plain
    chosen: Collection[str] = maps.within(dearest * sum(term.amount for term in analysis.costs))
    while chosen:
        inserted = maps.insert(chosen, ignored)
        assert inserted is not None
        found = _fold_most(inserted.graph, inserted.analysis, ignored)
        serving = _serving(found, inserted.names)
        if len(serving) == len(chosen):
            why = {**plain.reasons, **found.reasons}
            left = {name: reason for name, reason in why.items() if name not in found.centered}
            found = replace(found, reasons=left, maps=tuple(chosen))
            return found if _held(found) > _held(plain) else plain
        chosen = serving
    return plain


def fold_again(
    module: GraphModule, analysis: Analysis, streams: Collection[str], maps: Collection[str]
) -> GraphModule | None:
    """The graph with these maps, the norms of these streams folded; None where they cannot be.

    Args:
        module: the captured graph; not changed.
        analysis: of that graph.
        streams: names of channel groups of the graph with the maps.
        maps: names.
    """
    places = Maps.of(module, analysis)
    mapped = None if places is None else places.insert(maps, _nothing)
    if mapped is None or not set(streams) <= mapped.analysis.normalized:
        return None
    found = _fold(mapped.graph, mapped.analysis, streams, _nothing)
    return found.graph if set(streams) <= set(found.centered) else None


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


def _fold_most(module: GraphModule, analysis: Analysis, ignored: Callable[[str], bool]) -> Streams:
    """The graph with the norms of as many streams folded as can be rotated then."""
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
        graph = copied(module, sharing)
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
    left = _named_alike(analyze_graph(graph, analysis.batch, ignored), analysis, fold.whole)
    if fold.kept:
        able = mark_rotatable(graph, left, norms=True, means=True).rotatable
        sizes = {group.name: group.width for group in left.groups if group.name in able}
        mirrors = {name: _mirror(sizes[name]) for name in fold.kept if name in sizes}
        keep = KeepMeans(left, mirrors)
        if keep(graph).modified:
            left = analyze_graph(graph, analysis.batch, ignored)
            left = _named_alike(left, analysis, fold.whole)
    marked = mark_rotatable(graph, left, norms=True)
    centered, reasons = dict[str, bool](), dict(fold.reasons)
    before = {group.name: group for group in analysis.groups}
    after = {group.name: group for group in marked.groups}
    for name, mean in fold.whole.items():
        reason = _why_not(marked, before[name], after.get(name), name in fold.kept)
        if reason:
            reasons[name] = reason
        else:
            centered[name] = mean
    return Streams(graph, marked, centered, folded, reasons)


def _mirror(size: int) -> torch.Tensor:
    """The reflection that exchanges the last coordinate and the mean's direction."""
    return mirrored(torch.eye(size, dtype=torch.float64), 0)


def _named_alike(after: Analysis, before: Analysis, names: Collection[str]) -> Analysis:
    """An analysis with these names for the groups that had them: one that was named by a norm's
    weight, which is gone, would have another.
    """
    new = dict[str, str]()
    for group in before.groups:
        alike = sorted(after.groups, key=lambda g: -g.channels)
        same = (g.name for g in alike if set(g.members) & set(group.members))
        found = next(same, group.name) if group.name in names else group.name
        if found != group.name:
            new[found] = group.name
    groups = tuple(replace(g, name=new.get(g.name, g.name)) for g in after.groups)
    normalized = frozenset(new.get(name, name) for name in after.normalized)
    return replace(after, groups=groups, normalized=normalized)


def _why_not(
    analysis: Analysis, before: ChannelGroup, after: ChannelGroup | None, mean: bool
) -> str:
    """Why a group whose norms were folded is no stream to rotate; nothing where it is one.

    Args:
        analysis: of the graph whose norms were folded.
        before, after: the group in the original and in that graph.
        mean: whether the mean is a coordinate of its own, behind the group's.
    """
    width = before.width - mean
    if after is None or after.blocks.shape != (len(before.blocks), width):
        return "its channels are not the same without the norms' weights"
    if after.name not in analysis.rotatable:
        return analysis.unmixed[after.name]
    (block,) = after.blocks
    for ids in analysis.axes.values():
        whole = ids.shape == (before.width,) and np.array_equal(ids[:width], block)
        if np.isin(ids, block).any() and not whole:
            return OTHERWISE
    return ""
