"""Rows are written to places that a table names: of graphs, sets and slots."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from fxprune.rules.labels import Value, squash, varying
from fxprune.rules.pointwise import meet
from fxprune.rules.registry import Call, register_rule

PLACED = "is placed by a table of indices"


@register_rule("aten.index_add", "aten.index_copy", "aten.index_reduce")
def index_add(call: Call) -> Any:
    """A vector of places along one axis; along the others the rows meet what they are put into."""
    into, dim, rows = call.args[0], call.args[1] % max(call.args[0].rank, 1), call.args[3]
    return _place(call, dim, [into, rows])


@register_rule("aten.index_fill")
def index_fill(call: Call) -> Any:
    """One number is put into places along one axis."""
    into = call.args[0]
    return _place(call, call.args[1] % max(into.rank, 1), [into])


@register_rule("aten.scatter", "aten.scatter_add", "aten.scatter_reduce")
def scatter(call: Call) -> Any:
    """A table of the rows' shape names places along one axis; along the others it must grow
    narrower with them, as one that is expanded to their width does.
    """
    into, dim, table = call.args[0], call.args[1] % max(call.args[0].rank, 1), call.args[2]
    rows = call.arg(3, "src", 0)
    beside = [table, rows] if isinstance(rows, Value) else [table]
    if any(
        other.shape[d] != into.shape[d] for other in beside for d in range(into.rank) if d != dim
    ):
        raise NotImplementedError
    return _place(call, dim, [into, *beside])


def _place(call: Call, dim: int, tensors: list[Value]) -> Any:
    """Labels along `dim` stay; along the other axes those of all tensors meet."""
    if not tensors[0].rank:
        raise NotImplementedError
    thin = [_without(call, value, dim) for value in tensors]
    shape = tuple(1 if d == dim else size for d, size in enumerate(call.out.shape))
    axes = meet(call, thin, shape)
    return replace(call.out, axes=tuple(squash(a.expand(call.out.shape)) for a in axes))


def _without(call: Call, value: Value, dim: int) -> Value:
    """A tensor cut to one row along `dim`, with the labels that do not change there."""
    kept: list[Tensor] = []
    for labels in value.axes:
        if dim in varying(labels):
            call.record.pin(labels, PLACED)
        else:
            kept.append(labels.narrow(dim, 0, 1))
    shape = tuple(1 if d == dim else size for d, size in enumerate(value.shape))
    return replace(value, shape=shape, axes=tuple(kept), const=None)
