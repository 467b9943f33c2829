"""What survives of label tensors and parameters, on labels written by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fxprune.label.groups import Analysis
from fxprune.label.survivors import (
    Conflict,
    kept_axes,
    kept_before,
    shrink,
    shrink_parameter,
    sizes,
    survivors,
)
from fxprune.rules.labels import Value


def keep(*kept: int, of: int = 12) -> np.ndarray:
    """Keep these channels, and 0."""
    mask = np.zeros(of + 1, dtype=bool)
    mask[[0, *kept]] = True
    return mask


def along(labels: list[int], dim: int, *shape: int) -> Tensor:
    """A label tensor that changes along one dimension."""
    view = [1] * len(shape)
    view[dim] = -1
    return torch.tensor(labels).view(view).expand(shape)


def value(*axes: Tensor) -> Value:
    return Value(tuple(axes[0].shape), torch.float32, axes)


def analysis(axes: dict[tuple[str, int], np.ndarray]) -> Analysis:
    return Analysis({}, axes, (), (), (), frozenset(), (), 2)


@given(st.lists(st.booleans(), min_size=2, max_size=8), st.integers(0, 3))
def test_a_channel_axis_keeps_what_the_mask_keeps(kept: list[bool], at: int) -> None:
    shape = [2, 5, 3, 4]
    shape[at] = len(kept)
    labels = along(list(range(1, len(kept) + 1)), at, *shape)
    mask = np.array([True, *kept])
    left = [i + 1 for i, k in enumerate(kept) if k]
    assert sizes(labels, mask) == {at: len(left)}
    assert survivors(labels, mask).flatten().tolist() == left
    small = shrink(value(labels), mask)
    assert small.shape == (*shape[:at], len(left), *shape[at + 1 :])
    assert small.axes == ()
    for stop in range(len(kept) + 1):
        assert kept_before(value(labels), at, stop, mask) == sum(kept[:stop])


def test_heads_of_channels_stay_a_box() -> None:
    # Three heads of four channels each.
    labels = torch.arange(1, 13).view(1, 3, 4).expand(2, 3, 4)
    assert sizes(labels, keep(1, 2, 5, 6, 9, 10)) == {1: 3, 2: 2}
    assert sizes(labels, keep(1, 2, 3, 4, 9, 10, 11, 12)) == {1: 2, 2: 4}
    # Four of twelve are one head, though two of two would be a box too.
    assert sizes(labels, keep(5, 6, 7, 8)) == {1: 1, 2: 4}
    with pytest.raises(Conflict, match="unequal counts") as caught:
        sizes(labels, keep(1, 2, 3, 5, 6, 9, 10))
    assert caught.value.labels.flatten().tolist() == list(range(1, 13))


def test_tuples_and_what_is_no_tensor() -> None:
    labels = along([1, 2, 3], 1, 2, 3)
    small, number = shrink((value(labels), 7), keep(2, of=3))
    assert (small.shape, number) == ((2, 1), 7)


def test_positions_elsewhere_stay() -> None:
    labels = along([1, 2, 3], 1, 2, 3, 5)
    assert kept_before(value(labels), 2, 4, keep(2, of=3)) == 4
    # A channel over several elements survives with all of them.
    pixels = along([1, 1, 2, 2, 3, 3], 1, 2, 6)
    assert [kept_before(value(pixels), 1, stop, keep(1, 3, of=3)) for stop in (2, 4, 6)] == [
        2,
        2,
        4,
    ]


def test_parameters_are_sliced_along_every_axis() -> None:
    weight = torch.arange(12.0).view(3, 4)
    known = analysis({("w", 0): np.array([1, 2, 3]), ("w", 1): np.array([4, 0, 5, 6])})
    mask = keep(1, 3, 5, of=6)
    assert torch.equal(shrink_parameter(weight, "w", known, mask), weight[[0, 2]][:, [1, 2]])
    assert torch.equal(shrink_parameter(weight, "other", known, mask), weight)
    assert kept_axes(known, mask)["w", 1].tolist() == [0, 5]


def test_a_grouped_convolutions_inputs_are_sliced_in_every_group() -> None:
    weight = torch.arange(12.0).view(4, 3, 1)
    ids = np.array([[1, 2, 3], [4, 5, 6]])
    known = analysis({("w", 1): ids})
    mask = keep(1, 3, 5, 6, of=6)
    expected = torch.cat([weight[:2, [0, 2]], weight[2:, [1, 2]]])
    assert torch.equal(shrink_parameter(weight, "w", known, mask), expected)
    assert kept_axes(known, mask)["w", 1].tolist() == [[1, 3], [5, 6]]
    with pytest.raises(Conflict, match="w: convolution groups keep unequal counts"):
        kept_axes(known, keep(1, 2, 3, 4, of=6))


def test_a_conflict_says_where() -> None:
    conflict = Conflict("no box", torch.tensor([1]), "layer1: add")
    assert (str(conflict), conflict.message) == ("layer1: add: no box", "no box")
