"""What label propagation found: channel groups, pinned axes, costs."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fxprune.graph.names import put_together
from fxprune.rules.recorder import Consumer

if TYPE_CHECKING:
    import networkx as nx


LINES = 24
"""Groups that are written one by one."""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of which a subset is selected together.

    Attributes:
        name: the first weight that produces them.
        blocks: (blocks, size) channel ids; every block keeps the same number (heads, convolution
            groups).
        members: weight axes that hold the channels, as (parameter, axis).
        consumers: calls that contract them with a weight.
        tied: names of the groups that were put together to this one; none for one of its own.
    """

    name: str
    blocks: np.ndarray
    members: tuple[tuple[str, int], ...]
    consumers: tuple[Consumer, ...]
    tied: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Channels per block: what a plan chooses from 1 to this."""
        return int(self.blocks.shape[1])

    @property
    def channels(self) -> int:
        """Channels in all blocks."""
        return int(self.blocks.size)


@dataclass(frozen=True)
class Pinned:
    """A weight axis left alone, and why."""

    parameter: str
    axis: int
    size: int
    reason: str


@dataclass(frozen=True)
class CostTerm:
    """A part of a call's cost that is proportional to the kept share of each of several axes.

    Attributes:
        node: the call, or the parameter that is counted.
        amount: at full width, for one example: FLOPs, seconds, or a share of either.
        axes: the channel ids along each axis that it is proportional to; none where it is fixed.
    """

    node: str
    amount: float
    axes: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Analysis:
    """What label propagation found; channel id 0 is everything that stays.

    Attributes:
        values: per node (or tuple of nodes' results) its `Value` with channel ids for labels.
        axes: channel ids per (parameter, axis), (size,) or (groups, size).
        groups: the channel groups.
        pinned: weight axes left alone.
        consumers: every contraction with a weight.
        foldable: (parameter, axis) that are only ever contracted, so an interpolation may be
            folded in.
        costs: terms in FLOPs, of every contraction.
        batch: examples in the traced batch.
        normalized: names of the groups over whose channels a norm, a sum or a mean is taken, such
            as the residual stream of a transformer.
        sides: where products of two activations sum over channels, on which side of the product
            each position of a weight axis lies, of the shape of its `axes` entry: 0 or 1, or -1
            where the two cannot be told apart. Axes of which everything is 0 are left out.
        rotatable: names of the groups whose channels may be mixed, where that was looked for, and
            of streams that may be and are no group as the graph stands (`with_maps`).
        unmixed: why those of the other groups may not.
    """

    values: dict[str, Any]
    axes: dict[tuple[str, int], np.ndarray]
    groups: tuple[ChannelGroup, ...]
    pinned: tuple[Pinned, ...]
    consumers: tuple[Consumer, ...]
    foldable: frozenset[tuple[str, int]]
    costs: tuple[CostTerm, ...]
    batch: int
    normalized: frozenset[str] = frozenset()
    sides: Mapping[tuple[str, int], np.ndarray] = field(default_factory=dict)
    rotatable: tuple[str, ...] = ()
    unmixed: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line per group: `name: width [x blocks] [rotatable] | members -> consumers`. Of many
        groups, two per size and pattern of names, without the members.
        """
        more = [f"{name}: rotatable with maps" for name in self.with_maps]
        if len(self.groups) + len(more) <= LINES:
            return "\n".join([*(_line(group, self.rotatable) for group in self.groups), *more])
        rows = put_together(
            self.groups,
            lambda group: _short_line(group, self.rotatable),
            lambda g: (g.width, len(g.blocks)),
            most=LINES,
        )
        lines = [f"{len(row.items):2} x {row.name}" for row in rows]
        if more:
            lines.append(f"{len(more)} streams rotatable with maps, such as {self.with_maps[0]}.")
        lines.append(
            f"{len(self.groups)} groups in .groups; {len(self.pinned)} weight axes left alone in "
            ".pinned, with reasons."
        )
        return "\n".join(lines)

    @property
    def with_maps(self) -> tuple[str, ...]:
        """What of `rotatable` is no group as the graph stands: streams that the model gives out, or
        of which a group has several, once there are linear layers at their edges
        (`fxprune.passes.InsertMaps`). They bear the names that plans give them.
        """
        names = {group.name for group in self.groups}
        return tuple(name for name in self.rotatable if name not in names)

    def to_networkx(self) -> "nx.Graph[str]":
        """Bipartite coupling graph: group nodes joined to the weight axes that hold their
        channels.
        """
        import networkx as nx

        graph: nx.Graph[str] = nx.Graph()
        for group in self.groups:
            graph.add_node(group.name, kind="group", width=group.width, blocks=len(group.blocks))
            for parameter, axis in group.members:
                site = f"{parameter}[{axis}]"
                graph.add_node(site, kind="axis")
                graph.add_edge(group.name, site)
        return graph

    def group_of(self) -> np.ndarray:
        """Index of each channel id's group, -1 for channels that stay; (channels + 1,)."""
        top = max(
            [int(a.max(initial=0)) for a in self.axes.values()]
            + [int(g.blocks.max()) for g in self.groups]
            + [0]
        )
        index = np.full(top + 1, -1)
        for i, group in enumerate(self.groups):
            index[group.blocks] = i
        return index

    def block_of(self) -> np.ndarray:
        """Number of each channel id's block, -1 for channels that stay; (channels + 1,)."""
        number = np.full(len(self.group_of()), -1)
        for i, block in enumerate(block for group in self.groups for block in group.blocks):
            number[block] = i
        return number


def _line(group: ChannelGroup, rotatable: Collection[str]) -> str:
    """A group's name, size, members and consumers."""
    made = " ".join(f"{p}[{a}]" for p, a in group.members)
    return f"{_size(group, rotatable)} | {made} -> {' '.join(_readers(group))}"


def _short_line(group: ChannelGroup, rotatable: Collection[str]) -> str:
    """Likewise, in about 80 columns, without the members."""
    readers = _readers(group)
    more = f" and {len(readers) - 1} more" if len(readers) > 1 else ""
    return f"{_size(group, rotatable)}\n     -> {readers[0]}{more}"


def _size(group: ChannelGroup, rotatable: Collection[str]) -> str:
    blocks = f" x {len(group.blocks)} blocks" if len(group.blocks) > 1 else ""
    return f"{group.name}: {group.width}{blocks}{' rotatable' * (group.name in rotatable)}"


def _readers(group: ChannelGroup) -> list[str]:
    return list(dict.fromkeys(f"{c.parameter}[{c.axis}]" for c in group.consumers)) or ["nothing"]
