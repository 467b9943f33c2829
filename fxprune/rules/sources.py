"""Tensors of equal elements, of which as many are made along an axis as it takes: they are as wide
as what they meet.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fxprune.graph.operators import operator_name
from fxprune.rules.labels import Value
from fxprune.rules.movement import movement
from fxprune.rules.registry import Call, register_rule

FILLS = {
    "aten.zeros": 0,
    "aten.ones": 0,
    "aten.full": 0,
    "aten.new_zeros": 1,
    "aten.new_ones": 1,
    "aten.new_full": 1,
}
"""Operators that make a tensor of one number, and the position of its sizes."""
TABLES = {"aten.gather": 2, "aten.scatter": 2, "aten.scatter_add": 2, "aten.scatter_reduce": 2}
"""Operators that take a table of places as wide as the rows, and its position."""


def makes_equal(call: Call) -> bool:
    """Whether a call makes equal elements along an axis whose size is written as a number:
    numbers such as the states that a loop begins with, or a table of places for whole rows.
    """
    out, name = call.out, operator_name(call.target)
    if not isinstance(out, Value):
        return False
    if name in FILLS:
        return out.dtype.is_floating_point
    return name == "aten.expand" and not out.dtype.is_floating_point and _is_table(call)


def _is_table(call: Call) -> bool:
    """Whether it says where rows are taken from or put."""
    for user in call.node.users:
        place = TABLES.get(operator_name(user.target))
        if place is not None and len(user.args) > place and user.args[place] is call.node:
            return True
    return False


@register_rule(*FILLS)
def filled(call: Call) -> Any:
    """A label of its own for every element along each axis whose size is written as a number."""
    sizes = call.node.args[FILLS[operator_name(call.target)]]
    if not isinstance(sizes, (list, tuple)) or not makes_equal(call):
        return call.out
    return replace(call.out, axes=tuple(_fresh(call, call.out, list(sizes))))


@register_rule("aten.expand")
def expand(call: Call) -> Any:
    """Labels are expanded; a table of places gets one of its own for every row's element."""
    out = movement(call)
    if not makes_equal(call):
        return out
    source: Value = call.args[0]
    before = (1,) * (out.rank - source.rank) + source.shape
    sizes: Any = call.node.args[1]
    grown = [size if n == 1 else None for size, n in zip(sizes, before, strict=True)]
    return replace(out, axes=(*out.axes, *_fresh(call, out, grown)))


def _fresh(call: Call, out: Value, sizes: list[Any]) -> list[Tensor]:
    axes = []
    for dim, size in enumerate(sizes):
        if isinstance(size, int) and not isinstance(size, bool) and size == out.shape[dim] > 1:
            view = [1] * out.rank
            view[dim] = size
            axes.append(call.record.fresh(size).view(torch.Size(view)).expand(out.shape))
    return axes
