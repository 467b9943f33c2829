"""Sums of what every rank has added, in the order of one tree: what travels, and in what order.

Of each sum a rank has some nodes of the tree. These go to the rank that has the node to their left,
and in the end to the first one; what takes the same ways goes in one message, as a message costs
more than the few numbers of a small layer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from fxprune.distributed.channel import Channel, Form, form_of, pack, packed_form, unpack
from fxprune.linalg.tree_sum import Node, Terms, TreeSum, add_to, order_of_sums

CPU = torch.device("cpu")
TOGETHER = 2**22
"""Bytes that travel in one message, where more than one thing does."""


@dataclass(frozen=True)
class _Sum:
    """One sum over all ranks.

    Attributes:
        tree: this rank's part of it.
        nodes: of all ranks, from left to right.
        owners: who has each.
        forms: of the terms of a node.
    """

    tree: TreeSum
    nodes: tuple[Node, ...]
    owners: tuple[int, ...]
    forms: tuple[Form, ...]

    @property
    def ways(self) -> tuple[object, ...]:
        """Where its nodes go."""
        return self.owners, tuple(order_of_sums(self.nodes))

    @property
    def size(self) -> int:
        """Bytes of a node."""
        return packed_form(self.forms)[0][0]


def total(
    channel: Channel, trees: Sequence[TreeSum], what: str, *, everywhere: bool
) -> list[Terms | None]:
    """Sums over all ranks; `Group.total` says what of."""
    for tree in trees:
        tree.close()
    known = channel.gather([_told_of(tree) for tree in trees], what)
    sums = [_sum_of(tree, [own[n] for own in known]) for n, tree in enumerate(trees)]
    totals: list[Terms | None] = []
    for some in _alike(sums):
        totals += _add_up(channel, some, what, everywhere) if some[0].nodes else [None] * len(some)
    return totals


def _told_of(tree: TreeSum) -> tuple[list[Node], list[Form]]:
    """What a rank has of a sum, and what all parts of that are made of."""
    first = tree.nodes[0][1] if tree.nodes else []
    return [node for node, _ in tree.nodes], [form_of(term) for term in first]


def _sum_of(tree: TreeSum, of_ranks: Sequence[tuple[list[Node], list[Form]]]) -> _Sum:
    parts = [(node, rank) for rank, (nodes, _) in enumerate(of_ranks) for node in nodes]
    parts.sort(key=lambda part: part[0][1] << part[0][0])
    forms = next((forms for nodes, forms in of_ranks if nodes), [])
    nodes, owners = (tuple(part[at] for part in parts) for at in (0, 1))
    return _Sum(tree, nodes, owners, tuple(forms))  # type: ignore[arg-type]


def _alike(sums: Sequence[_Sum]) -> Iterator[list[_Sum]]:
    """Runs of sums that go the same ways and are small together."""
    run: list[_Sum] = []
    for own in sums:
        room = TOGETHER - sum(other.size for other in run)
        if run and (own.size > room or own.ways != run[0].ways):
            yield run
            run = []
        run.append(own)
    if run:
        yield run


def _add_up(
    channel: Channel, sums: Sequence[_Sum], what: str, everywhere: bool
) -> list[Terms | None]:
    """Sums that go the same ways; everywhere, or on the first rank."""
    devices = [device for own in sums for device in _devices(own)]
    nodes = _Nodes(channel, sums, what)
    for left, right in nodes.pairs:
        nodes.add(left, right)
    found = nodes.first()
    if everywhere:
        packed = None if found is None else pack(found)
        found = unpack(channel.spread(packed, packed_form(nodes.forms), what), nodes.forms)
    if found is None:
        return [None] * len(sums)
    found = [term.to(device) for term, device in zip(found, devices, strict=True)]
    totals: list[Terms | None] = []
    for own in sums:
        terms, found = found[: len(own.forms)], found[len(own.forms) :]
        totals.append(own.tree.settled(terms) if everywhere else terms)
    return totals


def _devices(own: _Sum) -> list[torch.device]:
    if not own.tree.nodes:
        return [CPU] * len(own.forms)
    return [term.device for term in own.tree.nodes[0][1]]


class _Nodes:
    """Nodes of sums that go the same ways, put together node by node: what this rank has of them.

    Args:
        channel: between the ranks.
        sums: whose trees' nodes are taken over, to be let go as they are added.
        what: names the exchange.

    Attributes:
        forms: of the terms of a node of all sums.
        pairs: places of nodes: the second is added to the first.
    """

    def __init__(self, channel: Channel, sums: Sequence[_Sum], what: str):
        self._channel, self._what, self._owners = channel, what, sums[0].owners
        self.forms = [form for own in sums for form in own.forms]
        self.pairs = order_of_sums(sums[0].nodes)
        self._terms: list[Terms | None] = [None] * len(self._owners)
        self._arrived = dict[int, Terms | None]()
        own = [place for place, owner in enumerate(self._owners) if owner == channel.rank]
        for number, place in enumerate(own):
            self._terms[place] = [t for one in sums for t in one.tree.nodes[number][1]]
        for one in sums:
            one.tree.nodes = []
        self._send_ahead()

    def add(self, left: int, right: int) -> None:
        """Add one node to another, which may be another rank's."""
        moved = self._brought(right, self._owners[left])
        mine, self._terms[right] = self._terms[left], None
        if mine is not None and moved is not None:
            add_to(mine, [t.to(m.device) for t, m in zip(moved, mine, strict=True)])

    def first(self) -> Terms | None:
        """The first node's terms, on the first rank."""
        return self._brought(0, 0)

    def _brought(self, place: int, target: int) -> Terms | None:
        """A node's terms, on the rank that is to have them; None on all others."""
        source = self._owners[place]
        if source == target:
            return self._terms[place]
        if place in self._arrived:
            return self._arrived.pop(place)
        return self._move([place], source, target)[0]

    def _send_ahead(self) -> None:
        """Nodes that nothing is added to go at once, together: those from one rank to another."""
        grow = {left for left, _ in self.pairs}
        ways: dict[tuple[int, int], list[int]] = {}
        for left, right in self.pairs:
            way = self._owners[right], self._owners[left]
            if right not in grow and way[0] != way[1]:
                ways.setdefault(way, []).append(right)
        for (source, target), places in sorted(ways.items()):
            if len(places) * packed_form(self.forms)[0][0] <= TOGETHER:
                moved = self._move(places, source, target)
                self._arrived.update(zip(places, moved, strict=True))

    def _move(self, places: list[int], source: int, target: int) -> list[Terms | None]:
        """Some nodes' terms that one rank has, on another; None everywhere else."""
        rank, forms = self._channel.rank, self.forms * len(places)
        if rank == source:
            terms = [term for place in places for term in self._terms[place] or ()]
            self._channel.send(pack(terms), target, self._what)
        if rank != target:
            return [None] * len(places)
        found = unpack(self._channel.receive(packed_form(forms), source, self._what), forms)
        count = len(self.forms)
        return [found[at : at + count] for at in range(0, len(found), count)]
