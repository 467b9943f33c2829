"""Ranks have about as many examples each."""

from itertools import combinations_with_replacement, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxprune.distributed.shares import UNEVEN, deal
from fxprune.linalg.tree_sum import leaf_of, owner_of


def busiest(sizes: list[int], ends: tuple[int, ...]) -> list[int]:
    """Examples of every rank, the most first."""
    bounds = (0, *ends, len(sizes))
    return sorted((sum(sizes[a:b]) for a, b in pairwise(bounds)), reverse=True)


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(2, 4))
def test_shares_are_runs_as_even_as_can_be(sizes: list[int], ranks: int) -> None:
    leaves = [leaf_of(number, len(sizes)) for number in range(len(sizes))]
    dealt = deal(dict(zip(leaves, sizes, strict=True)), ranks)
    owners = [dealt[leaf] for leaf in leaves]
    assert owners == sorted(owners)
    assert 0 <= owners[0] <= owners[-1] < ranks
    shares = [
        sum(size for size, owner in zip(sizes, owners, strict=True) if owner == rank)
        for rank in range(ranks)
    ]
    cuts = combinations_with_replacement(range(len(sizes) + 1), ranks - 1)
    even = min((busiest(sizes, ends) for ends in cuts), key=lambda own: sum(x * x for x in own))
    assert max(shares) <= UNEVEN * even[0]


@pytest.mark.parametrize(("ranks", "shares"), [(2, [60, 68]), (4, [29, 31, 32, 36])])
def test_an_odd_batch_is_not_always_the_first_rank_s(ranks: int, shares: list[int]) -> None:
    sizes = {leaf_of(n, 5): size for n, size in enumerate((29, 31, 32, 30, 6))}
    dealt = deal(sizes, ranks)
    assert [
        sum(size for leaf, size in sizes.items() if dealt[leaf] == rank) for rank in range(ranks)
    ] == shares


def test_shares_that_are_nearly_even_are_whole_nodes() -> None:
    sizes = {leaf_of(number, 48): 36 + number % 3 for number in range(48)}
    for ranks in (2, 3, 4):
        assert deal(sizes, ranks) == {leaf: owner_of(leaf, ranks) for leaf in sizes}


def test_more_ranks_than_batches_and_none() -> None:
    assert deal({0: 50, 128: 14}, 3) == {0: 0, 128: 1}
    assert deal({}, 2) == {}
