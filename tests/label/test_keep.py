"""Keep masks: how many channels stay of each block, and which."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fxprune.label.groups import Analysis, ChannelGroup
from fxprune.label.keep import keep_all, keep_apart, keep_first, keep_last, keep_random


@st.composite
def analyses(draw: st.DrawFn) -> Analysis:
    """Groups of some blocks each."""
    groups, number = [], 1
    for i in range(draw(st.integers(0, 3))):
        blocks, size = draw(st.integers(1, 3)), draw(st.integers(2, 6))
        ids = np.arange(number, number + blocks * size).reshape(blocks, size)
        number += blocks * size
        groups.append(ChannelGroup(str(i), ids, (), ()))
    return Analysis({}, {}, tuple(groups), (), (), frozenset(), (), 2)


@given(analyses(), st.integers(0, 1000))
def test_masks_keep_as_many_as_asked_in_every_block(analysis: Analysis, seed: int) -> None:
    generator = np.random.default_rng(seed)
    widths = [int(generator.integers(1, g.width + 1)) for g in analysis.groups]
    orders = [generator.permuted(g.blocks, axis=1) for g in analysis.groups]
    channels = sum(g.channels for g in analysis.groups)
    everything = keep_all(analysis)
    assert everything.shape == (channels + 1,)
    assert everything.all()
    first, last = keep_first(analysis, widths), keep_last(analysis, orders, widths)
    chosen = keep_random(analysis, generator)
    assert first[0]
    assert last[0]
    assert chosen[0]
    for group, order, width in zip(analysis.groups, orders, widths, strict=True):
        assert first[group.blocks[:, :width]].all()
        assert not first[group.blocks[:, width:]].any()
        assert last[order[:, group.width - width :]].all()
        assert not last[order[:, : group.width - width]].any()
        (count,) = set(chosen[group.blocks].sum(1).tolist())
        assert 1 <= count < group.width


def test_a_random_choice_follows_its_generator_and_its_widths() -> None:
    blocks = np.arange(1, 41).reshape(2, 20)
    analysis = Analysis({}, {}, (ChannelGroup("g", blocks, (), ()),), (), (), frozenset(), (), 2)
    one, same, other = (keep_random(analysis, np.random.default_rng(s)) for s in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    # Each block chooses for itself.
    assert not np.array_equal(one[blocks[0]], one[blocks[1]])
    asked = keep_random(analysis, np.random.default_rng(0), [7])
    assert asked[blocks].sum(1).tolist() == [7, 7]


def test_groups_stay_whole_once_their_blocks_are_told_apart() -> None:
    """Of 32 blocks of two channels one has to look at five digits, of two blocks of four at one."""
    ids = np.arange(1, 73)
    many = ChannelGroup("many", ids[:64].reshape(32, 2), (), ())
    few = ChannelGroup("few", ids[64:].reshape(2, 4), (), ())
    masks = list(keep_apart(Analysis({}, {}, (many, few), (), (), frozenset(), (), 2)))
    assert [bool(mask[few.blocks].all()) for mask in masks] == 2 * [False] + 8 * [True]
    assert not any(mask[many.blocks].all() for mask in masks)
    for first, second in itertools.combinations(many.blocks, 2):
        later = [tuple(mask[first].nonzero()[0] - mask[second].nonzero()[0]) for mask in masks]
        assert {(1,), (-1,)} <= set(later)
