"""Sums of several ranks have the bits of one process's, and small ones travel together."""

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxprune.distributed import totals
from fxprune.distributed.group import Group
from fxprune.distributed.shares import deal
from fxprune.distributed.sums import BY_ITSELF, Sums
from fxprune.linalg.tree_sum import Terms, TreeSum, leaf_of
from tests.distributed.threads import ThreadChannel, on_threads

Batches = Mapping[int, int]
"""Examples by leaf."""


def tree(sums: Sums, batches: Batches, number: int, size: int) -> TreeSum:
    """A sum of what this rank works on, of a count and so many numbers."""
    found = sums.tree()
    for leaf, examples in sorted(batches.items()):
        if sums.is_mine(leaf):
            draw = torch.Generator().manual_seed(1000 * number + leaf)
            terms = torch.randn(size, generator=draw) * 10.0 ** (leaf % 7)
            found.add(leaf, [torch.tensor(examples), terms])
    return found


def added(
    channel: ThreadChannel | None, sums: list[tuple[Batches, int]], everywhere: bool
) -> tuple[list[Terms | None], list[tuple[int, int]]]:
    """Sums of some batches each, and what one rank sent for them."""
    if channel is None:
        own = [tree(BY_ITSELF, batches, n, size) for n, (batches, size) in enumerate(sums)]
        return [one.total() for one in own], []
    group = Group(channel)
    trees = [
        tree(Sums(group, deal(batches, channel.size)), batches, n, size)
        for n, (batches, size) in enumerate(sums)
    ]
    return group.total(trees, "sums", everywhere=everywhere), channel.messages


def alike(found: list[Terms | None], known: list[Terms | None]) -> bool:
    return all(
        one is not None and all(map(torch.equal, one, other)) if other is not None else one is None
        for one, other in zip(found, known, strict=True)
    )


def batches(sizes: list[int]) -> Batches:
    return {leaf_of(n, len(sizes)): size for n, size in enumerate(sizes)}


SIZES = st.lists(st.integers(1, 60), max_size=12)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(SIZES, st.sampled_from((1, 3, 40))), min_size=1, max_size=6),
    st.integers(2, 4),
    st.sampled_from((64, 512, totals.TOGETHER)),
    st.booleans(),
)
def test_any_number_of_ranks_has_the_bits_of_one(
    drawn: list[tuple[list[int], int]], ranks: int, together: int, everywhere: bool
) -> None:
    sums = [(batches(sizes), size) for sizes, size in drawn]
    known, _ = added(None, sums, everywhere)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(totals, "TOGETHER", together)
        found = on_threads(lambda channel: added(channel, sums, everywhere), ranks)
    for rank, (own, _) in enumerate(found):
        assert alike(own, known if everywhere or rank == 0 else [None] * len(known))


def test_small_sums_go_in_one_message() -> None:
    sums = [(batches([29, 31, 32, 30, 6]), 8)] * 20
    (_, first), (_, second) = on_threads(lambda channel: added(channel, sums, True), 2)
    assert first == []
    # Two nodes of each sum, (1 + 8) numbers of 8 bytes each.
    assert second == [(0, 20 * 2 * 9 * 8)]


def test_large_sums_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "TOGETHER", 100)
    sums = [(batches([29, 31, 32, 30, 6]), 8)] * 3
    _, (_, second) = on_threads(lambda channel: added(channel, sums, False), 2)
    assert second == [(0, 9 * 8)] * 6
