"""Norms folded where that lets streams be rotated, and what labels and trials say of the rest."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.fx import GraphModule

from fxprune.graph.tensors import owner_of
from fxprune.label.analysis import analyze_graph
from fxprune.label.groups import Analysis, ChannelGroup
from fxprune.label.rotatable import WIDEST, mark_rotatable
from fxprune.linalg.rotation import mirrored
from fxprune.passes import FoldNorms, FoldScales, KeepMeans
from fxprune.profile.mapped import copied

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


@dataclass(frozen=True, eq=False)
class Folded:
    """A graph with the norms of some groups folded, of which no label is known yet.

    Attributes:
        graph: of the same function, unless a stream that keeps its mean cannot be rotated.
        analysis: of the graph before.
        norms: what folded them.
        folded: parameters that are gone, and what stands for them in the original.
    """

    graph: GraphModule
    analysis: Analysis
    norms: FoldNorms
    folded: Mapping[str, float]

    @classmethod
    def of(cls, source: GraphModule, analysis: Analysis, wanted: Collection[str]) -> "Folded":
        """Fold a copy of a graph."""
        graph, scales, norms = copied(source), FoldScales(analysis), FoldNorms(analysis, wanted)
        scales(graph)
        norms(graph)
        axes = dict(analysis.axes)
        axes |= {(bias, 0): axes[own, 0] for bias, own in norms.added.items() if (own, 0) in axes}
        kept = (group for group in analysis.groups if group.name in norms.kept)
        mirrors = {group.name: _mirror(group.width) for group in kept if 1 < group.width <= WIDEST}
        KeepMeans(replace(analysis, axes=axes), mirrors)(graph)
        folded = {**scales.folded, **norms.folded}
        for name in folded:
            owner, leaf = owner_of(graph, name)
            delattr(owner, leaf)
        return cls(graph, analysis, norms, folded)

    @property
    def members(self) -> set[tuple[str, int]]:
        """The weight axes that hold channels of the streams, if all of these can be rotated."""
        groups = [group for group in self.analysis.groups if group.name in self.norms.whole]
        return {member for g in groups for member in g.members if member[0] not in self.folded}


def settle(folded: Folded, source: GraphModule, ignored: Callable[[str], bool]) -> Streams:
    """The graph with the norms of as many streams folded as can be rotated then.

    Args:
        folded: the graph with the norms of all of them folded.
        source: the graph before.
        ignored: parameter names that must keep their shape.
    """
    found = labeled(folded, ignored)
    if len(found.centered) == len(folded.norms.whole):
        return found
    fewer = Folded.of(source, folded.analysis, list(found.centered))
    settled = settle(fewer, source, ignored)
    return replace(settled, reasons={**found.reasons, **settled.reasons})


def labeled(folded: Folded, ignored: Callable[[str], bool]) -> Streams:
    """Which of the streams may be rotated."""
    graph, norms, before = folded.graph, folded.norms, folded.analysis
    if not norms.whole:
        return Streams(reasons=norms.reasons)
    left = _named_alike(analyze_graph(graph, before.batch, ignored), before, norms.whole)
    marked = mark_rotatable(graph, left, norms=True)
    centered, reasons = dict[str, bool](), dict(norms.reasons)
    own = {group.name: group for group in before.groups}
    after = {group.name: group for group in marked.groups}
    for name, mean in norms.whole.items():
        reason = _why_not(marked, own[name], after.get(name), name in norms.kept)
        if reason:
            reasons[name] = reason
        else:
            centered[name] = mean
    return Streams(graph, marked, centered, folded.folded, reasons)


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
