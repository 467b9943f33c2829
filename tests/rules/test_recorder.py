"""What rules write down: pairs that live or die together, pins, blocks, owners of labels."""

import pytest
import torch
from torch import Tensor

from fxprune.rules.labels import FIXED
from fxprune.rules.recorder import Recorder


def pairs(record: Recorder) -> set[tuple[int, ...]]:
    """What was united, either way round."""
    return {tuple(sorted(pair)) for edge in record.edges for pair in edge.tolist()}


def pinned(record: Recorder) -> dict[str, list[int]]:
    """Pinned labels by their reason."""
    return {reason: labels.tolist() for labels, reason in record.pins}


def test_axes_hold_labels_of_their_own_in_the_order_they_were_made() -> None:
    record = Recorder()
    rows = record.axis("a", (2, 3), 0)
    columns = record.axis("a", (2, 3), 1)
    assert rows.tolist() == [[1, 1, 1], [2, 2, 2]]
    assert columns.tolist() == [[3, 4, 5], [3, 4, 5]]
    assert torch.equal(record.axis("a", (2, 3), 1), columns)
    assert (record.has_axis("a", 1), record.has_axis("b", 1)) == (True, False)


def test_each_group_of_a_convolution_has_inputs_of_its_own() -> None:
    record = Recorder()
    inputs = record.axis("a", (4, 2, 1), 1, groups=2)
    assert inputs[..., 0].tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]
    assert record.blockwise("a", 1, 2)
    assert not record.blockwise("a", 1, 4)
    assert record.blockwise("b", 1, 4)
    record.axis("c", (4, 2, 1), 1)
    assert not record.blockwise("c", 1, 4)


def test_labels_belong_to_the_axis_that_they_were_made_for() -> None:
    record = Recorder()
    first = record.axis("a", (3,), 0)
    second = record.axis("b", (2, 4), 1)
    loose = record.fresh(2)
    third = record.axis("c", (2,), 0)
    owners = [record.owner(labels) for labels in (first, second[:, 1:], third)]
    assert [o and (o.parameter, o.axis) for o in owners] == [("a", 0), ("b", 1), ("c", 0)]
    for labels in (torch.cat([first, second[0]]), loose, torch.tensor([FIXED, 1])):
        assert record.owner(labels) is None


def test_elements_that_meet_are_united_once() -> None:
    record = Recorder()
    left, right = record.fresh(3, 1).expand(3, 5), record.fresh(3, 1).expand(3, 5)
    record.unite(left, right)
    record.unite(left, left)
    assert pairs(record) == {(1, 4), (2, 5), (3, 6)}
    assert [len(edge) for edge in record.edges] == [3]
    assert not record.pins


def test_what_meets_a_fixed_element_is_pinned() -> None:
    record = Recorder()
    record.node = "model: add"
    left, right = record.fresh(4), record.fresh(4)
    record.unite(left, torch.cat([right[:2], torch.tensor([FIXED, FIXED])]))
    assert pairs(record) == {(1, 5), (2, 6)}
    assert pinned(record) == {
        "meets a tensor that is not produced by a weight (model: add)": [3, 4]
    }
    record.unite(torch.full((4,), FIXED), right)
    assert len(record.edges) == 1
    assert record.pins[-1][0].tolist() == [5, 6, 7, 8]


@pytest.mark.parametrize("size", [1024, 1025, 3000])
def test_many_pairs_are_those_of_few(size: int) -> None:
    record = Recorder()
    record.fresh(50)
    generator = torch.Generator().manual_seed(size)
    left = torch.randint(1, 9, (size,), generator=generator)
    right = torch.randint(20, 45, (size,), generator=generator)
    record.unite(left, right)
    assert pairs(record) == set(zip(left.tolist(), right.tolist(), strict=True))


def test_ties_leave_labels_that_change_elsewhere_only() -> None:
    record = Recorder()
    labels = record.fresh(2, 3, 1).expand(2, 3, 4)
    tied = record.tie(labels, frozenset({1, 2}))
    assert tied[:, :, 0].tolist() == [[1, 1, 1], [4, 4, 4]]
    assert pairs(record) == {(1, 2), (1, 3), (4, 5), (4, 6)}
    assert torch.equal(record.tie(tied, frozenset({1, 2})), tied)


def test_pins_name_the_call_and_nothing_fixed() -> None:
    record = Recorder()
    record.node = "a: conv2d"
    record.pin(torch.tensor([3, FIXED, 2, 3]), "why")
    record.pin(torch.tensor([FIXED]), "nothing to say")
    assert pinned(record) == {"why (a: conv2d)": [2, 3]}


@pytest.mark.parametrize("whole", [True, False])
def test_heads_go_as_a_whole_where_that_is_asked(whole: bool) -> None:
    record = Recorder(whole_heads=whole)
    assert not record.heads([])
    assert not record.met_heads
    assert record.heads([record.fresh(3)]) == whole
    assert record.met_heads
    assert bool(record.pins) != whole
    record.heads([])
    assert record.met_heads


def blocks(record: Recorder) -> list[tuple[list[list[int]], bool]]:
    return [(labels.tolist(), strict) for labels, strict in record.blocks]


def test_one_block_is_none() -> None:
    record = Recorder()
    labels: Tensor = record.fresh(2, 3)
    record.block(labels[:1])
    record.block(labels)
    record.block(labels.T, strict=False)
    assert blocks(record) == [
        ([[1, 2, 3], [4, 5, 6]], True),
        ([[1, 4], [2, 5], [3, 6]], False),
    ]


def test_labels_along_several_dimensions_are_blocks_of_the_last() -> None:
    record = Recorder()
    record.block_structure(record.fresh(3, 1).expand(3, 4))
    assert not record.blocks
    record.block_structure(record.fresh(2, 1, 3).expand(2, 4, 3))
    assert blocks(record) == [([[4, 5, 6], [7, 8, 9]], False)]
