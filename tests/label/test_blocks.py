"""Block structures alone: channels 1 to n, label i is channel i, 0 stays."""

import numpy as np
import torch

from fxprune.label.blocks import STAYS, Sites, divide

IDENTITY = np.arange(16)
A: Sites = (("a", 0),)
B: Sites = (("b", 0),)


def blocks_of(
    free: dict[Sites, list[int]], *tables: list[list[int]], strict: bool = True
) -> tuple[list[tuple[list[list[int]], Sites]], dict[int, str]]:
    structures = [(torch.tensor(rows), strict) for rows in tables]
    groups, dropped = divide(free, structures, IDENTITY)
    return [(blocks.tolist(), sites) for blocks, sites in groups], dropped


def test_without_structures_each_group_is_one_block() -> None:
    assert blocks_of({A: [1, 2], B: [3, 4, 5]}) == ([([[1, 2]], A), ([[3, 4, 5]], B)], {})


def test_rows_are_blocks() -> None:
    assert blocks_of({A: [1, 2, 3, 4]}, [[1, 2], [3, 4]]) == ([([[1, 2], [3, 4]], A)], {})


def test_channels_that_occur_in_every_row_are_not_divided() -> None:
    assert blocks_of({A: [1, 2, 3, 4]}, [[1, 2], [2, 1]]) == ([([[1, 2, 3, 4]], A)], {})


def test_axes_that_share_a_structure_are_one_group() -> None:
    groups, dropped = blocks_of({A: [1, 2], B: [3, 4]}, [[1, 2], [3, 4]])
    assert (groups, dropped) == ([([[1, 2], [3, 4]], (*A, *B))], {})


def test_structures_that_nest_refine_each_other() -> None:
    halves, quarters = [[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 2], [3, 4], [5, 6], [7, 8]]
    for tables in ((halves, quarters), (quarters, halves)):
        groups, dropped = blocks_of({A: list(range(1, 9))}, *tables)
        assert (groups, dropped) == ([(quarters, A)], {})


def test_structures_that_cross_are_refined_while_parts_stay_equal() -> None:
    groups, _ = blocks_of(
        {A: list(range(1, 9))}, [[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 2, 5, 6], [3, 4, 7, 8]]
    )
    assert groups == [([[1, 2], [3, 4], [5, 6], [7, 8]], A)]


def test_structures_that_do_not_nest_stay() -> None:
    free = {A: [1, 2, 3, 4, 5, 6]}
    groups, dropped = blocks_of(free, [[1, 2, 3], [4, 5, 6]], [[1, 2], [3, 4], [5, 6]])
    assert not groups
    assert dropped == dict.fromkeys(range(1, 7), "its block structures do not nest")


def test_one_channel_is_no_choice() -> None:
    assert blocks_of({A: [1], B: [2, 3]}, [[2], [3]]) == (
        [],
        {1: "one indivisible channel"}
        | dict.fromkeys((2, 3), "its block structures leave one channel per block"),
    )


def test_entire_rows_may_go_unless_strict() -> None:
    heads = [[1, 1], [2, 2], [3, 3]]
    assert blocks_of({A: [1, 2, 3]}, heads, strict=False) == ([([[1, 2, 3]], A)], {})
    assert not blocks_of({A: [1, 2, 3]}, heads)[0]


def test_blocks_beside_fixed_channels_stay() -> None:
    # 4 is not free; 3, which shares only its axis with the others, stays with them.
    groups, dropped = blocks_of({A: [1, 2, 3], B: [5, 6]}, [[1, 2], [4, 4]])
    assert groups == [([[5, 6]], B)]
    assert dropped == dict.fromkeys((1, 2, 3), STAYS)
