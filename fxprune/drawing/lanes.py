"""Where the channel graph's parts lie: layers are rows in the order of their calls, channel groups
are strands beside them, from the first layer that touches the group to the last.

A strand takes the first lane that is free as far as it reaches, the longest first: a residual
stream lies straight beside the short groups inside its blocks. Nothing crosses but a layer's own
line from what it reads to what it makes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fxprune.label.groups import Analysis, ChannelGroup


@dataclass(frozen=True)
class Row:
    """A layer.

    Attributes:
        name: of its weight, without `.weight`.
        makes, reads, scales: groups, by their index: whose channels its rows make; that it
            contracts; that it works on channel by channel.
        stays: what it reads or makes beside them and keeps.
    """

    name: str
    makes: tuple[int, ...]
    reads: tuple[int, ...]
    scales: tuple[int, ...]
    stays: str

    @property
    def touched(self) -> tuple[int, ...]:
        """All its groups."""
        return tuple(dict.fromkeys((*self.reads, *self.makes, *self.scales)))


@dataclass(frozen=True)
class Strand:
    """A channel group.

    Attributes:
        lane: across, from 0.
        first, last: rows it reaches from and to.
        text: its width, and its blocks where there are several.
        coupled: several layers make its channels, which live or die together.
    """

    lane: int
    first: int
    last: int
    text: str
    coupled: bool


@dataclass(frozen=True)
class Lanes:
    """All of it; strands by the index of their group."""

    rows: tuple[Row, ...]
    strands: dict[int, Strand]

    @property
    def count(self) -> int:
        """Lanes that are taken."""
        return 1 + max((s.lane for s in self.strands.values()), default=-1)


def lay_out(analysis: Analysis) -> Lanes:
    """Rows and strands of an analysis."""
    rows = tuple(_rows(analysis))
    reach: dict[int, tuple[int, int]] = {}
    for at, row in enumerate(rows):
        for group in row.touched:
            reach[group] = (reach.get(group, (at, at))[0], at)
    taken: list[list[tuple[int, int]]] = []
    strands: dict[int, Strand] = {}
    for index, (first, last) in sorted(reach.items(), key=lambda r: (r[1][0] - r[1][1], r[1][0])):
        lane = next((n for n, spans in enumerate(taken) if _free(spans, first, last)), len(taken))
        if lane == len(taken):
            taken.append([])
        taken[lane].append((first, last))
        makers = sum(index in row.makes for row in rows)
        text = _size(analysis.groups[index])
        strands[index] = Strand(lane, first, last, text, makers > 1)
    return Lanes(rows, strands)


def _free(spans: Sequence[tuple[int, int]], first: int, last: int) -> bool:
    return all(last < start or first > end for start, end in spans)


def _size(group: ChannelGroup) -> str:
    blocks = len(group.blocks)
    return f"{blocks} x {group.width}" if blocks > 1 else str(group.width)


def _rows(analysis: Analysis) -> Iterator[Row]:
    """Weights that contract or make channels; vectors, such as a normalization's, are none."""
    index = analysis.group_of()
    read: dict[str, list[int]] = {}
    partly: set[str] = set()
    for consumer in analysis.consumers:
        own = index[np.unique(analysis.axes[consumer.parameter, consumer.axis])]
        read.setdefault(consumer.parameter, []).extend(int(g) for g in own if g >= 0)
        if (own < 0).any():
            partly.add(consumer.parameter)
    contracted = {(c.parameter, c.axis) for c in analysis.consumers}
    held: dict[str, list[int]] = {}
    for number, group in enumerate(analysis.groups):
        for parameter, axis in group.members:
            if (parameter, axis) not in contracted:
                held.setdefault(parameter, []).append(number)
    pinned: dict[str, list[int]] = {}
    for stays in analysis.pinned:
        pinned.setdefault(stays.parameter, []).append(stays.size)
    for parameter in _in_order(analysis, read, held):
        reads, makes = read.get(parameter, []), held.get(parameter, [])
        alone = not reads and parameter not in pinned
        yield Row(
            parameter.removesuffix(".weight"),
            () if alone else tuple(dict.fromkeys(makes)),
            tuple(dict.fromkeys(reads)),
            tuple(dict.fromkeys(makes)) if alone else (),
            _tell(pinned.get(parameter, []), bool(reads), bool(makes), parameter in partly),
        )


def _tell(sizes: Sequence[int], reads: bool, makes: bool, partly: bool) -> str:
    if partly:
        return "reads others too, which stay"
    if not sizes or (reads and makes):
        return ""
    return f"its {sizes[0]} outputs stay" if reads else f"its {sizes[0]} inputs stay"


def _in_order(
    analysis: Analysis, read: dict[str, list[int]], held: dict[str, list[int]]
) -> list[str]:
    """Weights in the order of their calls. What only makes or scales a group has no call among the
    consumers: it stands before the first that reads the group.
    """
    deep = {parameter for parameter, axis in analysis.axes if axis > 0}
    makers: dict[int, list[str]] = {}
    for parameter, groups in held.items():
        for group in groups:
            if parameter in deep and parameter not in read:
                makers.setdefault(group, []).append(parameter)
    order: dict[str, None] = {}
    for parameter, groups in read.items():
        for group in groups:
            order |= dict.fromkeys(makers.get(group, ()))
        order[parameter] = None
    return list(order | dict.fromkeys(p for own in makers.values() for p in own))
