"""Sums of many terms in an order that does not depend on who adds them.

Terms stand at the leaves of one binary tree without end; every node is the sum of its left and its
right half. Whoever has all the terms of a node can add them alone, so that any number of processes,
each with a run of leaves, gives the same bits as one process that has them all (pairwise summation;
Higham, SIAM J. Sci. Comput. 1993). What waits for its other half are one sum per level.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

Node = tuple[int, int]
"""(level, index): the leaves from index x 2^level up to the next index."""
Terms = list[Tensor]
"""What is added, tensor by tensor."""
Settle = Callable[[Tensor], Tensor]
"""Finds a place for a tensor that stays: gives it, or a copy."""

LEAVES, FEWEST, BATCHES = 48, 12, 4
"""Leaves that one stream of batches fills at most; and no more than so many, fairly shared by 2, 3,
4 and 6 processes, unless each of them has as many batches: products of few rows are slow.
"""
SLOTS, STREAMS = 64, 4
"""Places that a stream's leaves are spread over evenly, so that equal shares of it are whole nodes;
and how many streams stand side by side in one tree, so that the same shares of all of them are.
"""


def leaf_of(number: int, count: int, stream: int = 0) -> int:
    """Where one of so many batches of a stream stands.

    Args:
        number: of the batch.
        count: of batches.
        stream: which of those that are added up together.
    """
    leaves = min(LEAVES, count)
    while leaves > FEWEST and count < BATCHES * leaves:
        leaves = max(leaves // 2, FEWEST)
    return number * leaves // count * SLOTS // leaves * STREAMS + stream


def owner_of(leaf: int, ranks: int) -> int:
    """Which of so many ranks adds what stands at a leaf: each an equal run of a stream."""
    number = min(-(-(leaf // STREAMS) * LEAVES // SLOTS), LEAVES - 1)
    return number * ranks // LEAVES


def above(left: Node, right: Node) -> Node:
    """The lowest node that holds both."""
    (a, i), (b, j) = left, right
    level = max(a, b)
    i, j = i >> (level - a), j >> (level - b)
    while i != j:
        level, i, j = level + 1, i >> 1, j >> 1
    return level, i


def span(node: Node) -> range:
    """The leaves of a node."""
    level, index = node
    return range(index << level, (index + 1) << level)


def is_complete(node: Node, leaf: int) -> bool:
    """Whether nothing from a leaf on belongs to a node."""
    return leaf >= span(node).stop


class TreeSum:
    """Terms added in the tree's order, which must come in the order of its leaves.

    Args:
        owned: whether all terms of these leaves are added here; where they are not, their parts
            stay apart.
        settle: finds a place for every sum while it waits, and for what it comes to; by default
            they stay where they were made.

    Attributes:
        nodes: sums so far, from left to right; one of a sum that is complete.
    """

    def __init__(
        self, owned: Callable[[range], bool] = lambda leaves: True, settle: Settle | None = None
    ):
        self.nodes: list[tuple[Node, Terms]] = []
        self._owned, self._settle = owned, settle

    def add(self, leaf: int, terms: Terms) -> None:
        """Add terms at a leaf, which takes them over: nothing is copied of the first ones.

        Args:
            leaf: the last one, or one after it.
            terms: in whatever precision; their sum with others is in float64.

        Raises:
            ValueError: the leaf comes before the last one.
        """
        if self.nodes and self.nodes[-1][0] == (0, leaf):
            add_to(self.nodes[-1][1], terms)
            return
        if self.nodes and leaf < span(self.nodes[-1][0]).stop:
            raise ValueError(f"leaf {leaf} comes after {self.nodes[-1][0]}")
        self._close(leaf)
        self.nodes.append(((0, leaf), self.settled(terms)))

    def settled(self, terms: Terms) -> Terms:
        """Terms that stay, where they are to be; in float64 where a place is found for them."""
        return terms if self._settle is None else [self._settle(_wide(term)) for term in terms]

    def close(self) -> None:
        """Nothing more comes; all sums are in float64."""
        self._close(None)
        self.nodes = [(node, [_wide(term) for term in terms]) for node, terms in self.nodes]

    def _close(self, leaf: int | None) -> None:
        """Put together what is complete before a leaf."""
        while len(self.nodes) > 1:
            node = above(self.nodes[-2][0], self.nodes[-1][0])
            if not self._owned(span(node)) or (leaf is not None and not is_complete(node, leaf)):
                return
            _, right = self.nodes.pop()
            _, left = self.nodes.pop()
            self.nodes.append((node, add_to(left, right)))

    def total(self) -> Terms | None:
        """The sum of everything, where all of it was added here; None of nothing."""
        self.close()
        return self.nodes[0][1] if self.nodes else None


def add_to(left: Terms, right: Terms) -> Terms:
    """The sum of two, in the place of the first, and on its device."""
    for place, (own, other) in enumerate(zip(left, right, strict=True)):
        left[place] = _wide(own).add_(other.to(own.device))
    return left


def _wide(term: Tensor) -> Tensor:
    """A term to which others can be added."""
    return term.double() if term.is_floating_point() else term


def order_of_sums(nodes: Sequence[Node]) -> list[tuple[int, int]]:
    """Which of several sums are added to which, in the tree's order, until all are in the first.

    Args:
        nodes: from left to right.

    Returns:
        pairs of places among them: the second is added to the first.
    """
    waiting: list[tuple[Node, int]] = []
    pairs = []

    def put_together() -> None:
        (left, place), (right, other) = waiting[-2:]
        waiting[-2:] = [(above(left, right), place)]
        pairs.append((place, other))

    for place, node in enumerate(nodes):
        while len(waiting) > 1 and is_complete(
            above(waiting[-2][0], waiting[-1][0]), span(node).start
        ):
            put_together()
        waiting.append((node, place))
    while len(waiting) > 1:
        put_together()
    return pairs
