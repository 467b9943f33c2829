"""The notebook of a trial hands out what survives, and refuses what does not meet its own."""

import numpy as np
import pytest
import torch

from fxprune.label.checker import Checker
from fxprune.label.survivors import Conflict
from fxprune.rules.labels import FIXED


def checker() -> Checker:
    return Checker({("a", 0): np.array([3, 5]), ("a", 1): np.array([[1, 2], [6, 8]])})


def test_survivors_lie_along_their_axis() -> None:
    record = checker()
    assert record.axis("a", (2, 3), 0).tolist() == [[3, 3, 3], [5, 5, 5]]
    assert record.axis("a", (4, 2), 1, groups=2).tolist() == [[1, 2], [1, 2], [6, 8], [6, 8]]
    assert (record.has_axis("a", 0), record.has_axis("b", 0)) == (True, False)
    assert [record.blockwise(name, 1, 2) for name in "ab"] == [True, False]
    assert not record.blockwise("a", 0, 2)


def test_what_meets_must_be_one_channel_or_fixed() -> None:
    record = checker()
    record.unite(torch.tensor([[3], [5]]), torch.tensor([[3], [5]]).expand(2, 4))
    record.unite(torch.tensor([3, FIXED, 5]), torch.tensor([3, 7, FIXED]))
    with pytest.raises(Conflict) as caught:
        record.unite(torch.tensor([3, 5, 7]), torch.tensor([3, 7, FIXED]))
    assert caught.value.labels.tolist() == [5, 7]
    with pytest.raises(Conflict):
        record.unite(torch.tensor([3, 5]), torch.tensor([3, 5, 7]))


def test_heads_of_one_channel_are_no_whole_heads() -> None:
    record, whole, thin = checker(), torch.ones(2, 4, 3), torch.ones(2, 4, 1)
    assert record.heads([whole, whole])
    assert not record.heads([whole, thin])
    assert not record.heads([])


def test_what_is_solved_for_is_not_noted_again() -> None:
    record = checker()
    record.pin(torch.tensor([3]), "why")
    record.block(torch.ones(2, 2))
    assert (record.pins, record.blocks) == ([], [])
    assert record.fresh(2, 3).tolist() == [[FIXED] * 3] * 2
