"""Sums have the same bits however their terms are shared out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxprune.linalg.tree_sum import (
    BATCHES,
    FEWEST,
    LEAVES,
    TreeSum,
    add_to,
    leaf_of,
    order_of_sums,
    owner_of,
)


def shared_out(terms: dict[int, torch.Tensor], ranks: int) -> torch.Tensor:
    """Their sum by so many ranks, each with a run of leaves."""
    parts = []
    for rank in range(ranks):
        tree = TreeSum(
            lambda leaves, own=rank: all(owner_of(leaf, ranks) == own for leaf in leaves)  # type: ignore[misc]
        )
        for leaf, term in terms.items():
            if owner_of(leaf, ranks) == rank:
                tree.add(leaf, [term.clone()])
        tree.close()
        parts += tree.nodes
    sums = [own for _, own in parts]
    for left, right in order_of_sums([node for node, _ in parts]):
        add_to(sums[left], sums[right])
    return sums[0][0]


@settings(deadline=None)
@given(st.sets(st.integers(0, 255), min_size=1), st.integers(2, 9), st.integers(0, 99))
def test_any_number_of_ranks_adds_the_same_bits(leaves: set[int], ranks: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    terms = {
        leaf: torch.randn(3, generator=draw, dtype=torch.float64) * 10.0 ** (leaf % 7)
        for leaf in sorted(leaves)
    }
    one = shared_out(terms, 1)
    assert torch.equal(one, shared_out(terms, ranks))
    torch.testing.assert_close(one, torch.stack(list(terms.values())).sum(0), rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 4, 12, 47, 48, 64, 120, 1000])
def test_batches_are_spread_over_the_leaves_in_order(count: int) -> None:
    leaves = [leaf_of(number, count) for number in range(count)]
    assert leaves == sorted(leaves)
    used = len(set(leaves))
    assert min(count, FEWEST) <= used <= LEAVES
    assert used in (count, FEWEST) or count >= BATCHES * used
    for ranks in (2, 3, 4):
        owners = [owner_of(leaf, ranks) for leaf in leaves]
        assert owners == sorted(owners)
        shares = [owners.count(rank) for rank in range(ranks)]
        assert max(shares) - min(shares) <= -(-count // used)


def test_one_node_waits_for_its_other_half_per_level() -> None:
    tree, most = TreeSum(), 0
    for number in range(LEAVES):
        tree.add(leaf_of(number * BATCHES, LEAVES * BATCHES), [torch.ones(())])
        most = max(most, len(tree.nodes))
    assert most <= 7
    total = tree.total()
    assert total is not None
    assert float(total[0]) == LEAVES


def test_whatever_waits_lies_where_a_place_was_found_for_it() -> None:
    places = list[torch.Tensor]()

    def settle(term: torch.Tensor) -> torch.Tensor:
        places.append(term.clone())
        return places[-1]

    own, settled = TreeSum(), TreeSum(settle=settle)
    draw = torch.Generator().manual_seed(0)
    for leaf in (0, 1, 1, 4, 7, 8, 8):
        term = torch.randn(3, generator=draw)
        for tree in (own, settled):
            tree.add(leaf, [term.clone(), torch.tensor(1)])
        waiting = [term for _, terms in settled.nodes for term in terms]
        assert all(any(term is place for place in places) for term in waiting)
    wanted, found = own.total(), settled.total()
    assert wanted is not None
    assert found is not None
    assert found[0] is places[0]
    assert len(places) == 2 * 5, "one place for each leaf, into which everything else is added"
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


def test_leaves_come_in_order() -> None:
    tree = TreeSum()
    tree.add(5, [torch.ones(())])
    with pytest.raises(ValueError, match="leaf 4 comes after"):
        tree.add(4, [torch.ones(())])


def test_the_first_products_of_a_leaf_are_its_sum() -> None:
    tree, first = TreeSum(), torch.full((2,), 1 / 3)
    tree.add(3, [first])
    assert tree.nodes[0][1][0] is first
    tree.add(3, [first.clone()])
    tree.add(9, [first.clone()])
    total = tree.total()
    assert total is not None
    assert total[0].dtype == torch.float64
    assert torch.equal(total[0], 3 * first.double())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_sums_of_any_precision_come_in_float64(dtype: torch.dtype) -> None:
    tree = TreeSum()
    tree.add(0, [torch.ones(3, dtype=dtype), torch.tensor(2)])
    (total, count) = tree.total() or []
    assert total.dtype == torch.float64
    assert count.dtype == torch.int64
