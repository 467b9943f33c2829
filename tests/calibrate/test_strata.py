"""Columns that a consumer reads, sorted by channel."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fxprune.calibrate.strata import rows, strata


def listed(ids: list[list[int]] | list[int]) -> list[tuple[int, dict[int, list[int]]]]:
    return [
        (s.group, dict(zip(s.keys.tolist(), s.columns.tolist(), strict=True)))
        for s in strata(np.array(ids))
    ]


def test_one_column_a_channel_is_one_stratum() -> None:
    assert listed([4, 7, 5]) == [(0, {4: [0], 7: [1], 5: [2]})]


def test_flattened_positions_belong_to_their_channel() -> None:
    assert listed([2, 2, 2, 5, 5, 5]) == [(0, {2: [0, 1, 2], 5: [3, 4, 5]})]


def test_channels_of_as_many_columns_share_a_stratum() -> None:
    """A channel that is read twice, beside two that are read once."""
    assert listed([1, 2, 1, 3]) == [(0, {1: [0, 2]}), (0, {2: [1], 3: [3]})]


def test_columns_that_stay_are_channels_of_their_own() -> None:
    assert listed([0, 6, 0]) == [(0, {-1: [0], 6: [1], -2: [2]})]


def test_groups_of_a_convolution_are_apart() -> None:
    assert listed([[1, 2], [3, 0]]) == [(0, {1: [0], 2: [1]}), (1, {3: [2], -1: [3]})]


@given(st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=1, max_size=3))
def test_every_column_is_in_one_stratum_with_its_channel(ids: list[list[int]]) -> None:
    table = np.array(ids)
    found = strata(table if len(ids) > 1 else table[0])
    columns = np.concatenate([s.columns.reshape(-1) for s in found])
    assert sorted(columns.tolist()) == list(range(table.size))
    for stratum in found:
        assert len(set(stratum.keys.tolist())) == len(stratum.keys)
        owners = np.maximum(stratum.keys, 0)[:, None]
        assert (table.reshape(-1)[stratum.columns] == owners).all()
        assert (stratum.columns // table.shape[1] == stratum.group).all()
    assert len({(s.group, s.columns.shape[1]) for s in found}) == len(found)


def test_every_position_is_an_observation_of_its_channel() -> None:
    """Rows: examples by positions; columns: channels."""
    flat = torch.arange(12.0).view(2, 6)
    (stratum,) = strata(np.array([2, 2, 2, 5, 5, 5]))
    assert rows(flat, stratum).tolist() == [[0, 3], [1, 4], [2, 5], [6, 9], [7, 10], [8, 11]]


def test_all_columns_in_order_are_not_copied() -> None:
    flat = torch.randn(5, 3)
    (stratum,) = strata(np.array([9, 8, 7]))
    assert rows(flat, stratum) is flat
    some = strata(np.array([[9, 8], [7, 6]]))
    assert torch.equal(rows(flat.repeat(1, 2)[:, :4], some[1]), flat.repeat(1, 2)[:, 2:4])
