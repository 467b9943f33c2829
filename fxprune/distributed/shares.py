"""Which rank works on which leaves of a sum."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from fxprune.linalg.tree_sum import owner_of

UNEVEN = 1.05
"""By how much the busiest rank may do more than it need, so that shares are whole nodes of the
tree, of which the least travels.
"""


def deal(sizes: Mapping[int, int], ranks: int) -> dict[int, int]:
    """Give every rank a run of leaves with about as many examples; one that changes no sum, whose
    tree is the same.

    Args:
        sizes: examples by leaf.
        ranks: that take part.

    Returns:
        rank by leaf.
    """
    leaves = sorted(sizes)
    equal = {leaf: owner_of(leaf, ranks) for leaf in leaves}
    ends = _even_runs([sizes[leaf] for leaf in leaves], ranks)
    even = {
        leaf: rank
        for rank, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
        for leaf in leaves[start:end]
    }
    return equal if _most(sizes, equal) <= UNEVEN * _most(sizes, even) else even


def _even_runs(sizes: Sequence[int], ranks: int) -> list[int]:
    """Where runs end whose sums have the least sum of squares; of equally good ones those whose
    first runs are the smaller, since the first rank solves the fits.
    """
    before, count = [0, *accumulate(sizes)], len(sizes)
    least, starts = [0.0] + [float("inf")] * count, list[tuple[int, ...]]()
    for _ in range(min(ranks, count)):
        # The best way to give the leaves before each end to one rank more.
        best = [
            min((least[at] + (before[end] - before[at]) ** 2, at) for at in range(end + 1))
            for end in range(count + 1)
        ]
        least = [squares for squares, _ in best]
        starts.append(tuple(at for _, at in best))
    ends = [count]
    for of_run in reversed(starts[1:]):
        ends.insert(0, of_run[ends[0]])
    return ends


def _most(sizes: Mapping[int, int], owners: Mapping[int, int]) -> int:
    """Examples of the busiest rank."""
    of_ranks = dict.fromkeys(owners.values(), 0)
    for leaf, rank in owners.items():
        of_ranks[rank] += sizes[leaf]
    return max(of_ranks.values(), default=0)
