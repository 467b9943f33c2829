"""Sums over the examples of all ranks."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fxprune.distributed.group import ALONE, Group
from fxprune.linalg.tree_sum import Settle, Terms, TreeSum


@dataclass(frozen=True)
class Sums:
    """Who works on which leaves of a sum.

    Attributes:
        group: of all who do.
        owners: rank by leaf; where nothing is said of a leaf, nothing stands there or this rank is
            alone.
    """

    group: Group = ALONE
    owners: Mapping[int, int] = field(default_factory=dict)

    def owner(self, leaf: int) -> int:
        """The rank that works on a leaf."""
        return self.owners.get(leaf, self.group.rank)

    def is_mine(self, leaf: int) -> bool:
        """Whether this rank works on a leaf."""
        return self.owner(leaf) == self.group.rank

    def and_of(self, other: "Sums") -> "Sums":
        """Of the leaves of both."""
        return replace(self, owners={**self.owners, **other.owners})

    def tree(self, settle: Settle | None = None) -> TreeSum:
        """A sum to add this rank's terms to.

        Args:
            settle: as `TreeSum` takes it.
        """
        if not self.owners:
            return TreeSum(settle=settle)
        others = sorted(leaf for leaf in self.owners if not self.is_mine(leaf))
        return TreeSum(
            lambda leaves: bisect_left(others, leaves.start) == bisect_left(others, leaves.stop),
            settle,
        )

    def totals(self, trees: Sequence[TreeSum], what: str) -> list[Terms | None]:
        """Sums over all ranks, on all of them."""
        return self.group.total(trees, what, everywhere=True)


BY_ITSELF = Sums()
"""One process adds everything."""
