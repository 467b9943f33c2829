"""Indexing: parts of a tensor are picked or replaced by tables, ranges and rows."""

from dataclasses import replace
from typing import Any

import torch

from fxprune.graph.operators import operator_name
from fxprune.rules.labels import Value, squash, varying, vector
from fxprune.rules.movement import indexed_dims, movement, run_on_labels
from fxprune.rules.pointwise import meet
from fxprune.rules.registry import Call, register_rule


@register_rule("aten.gather", "aten.take_along_dim")
def gather(call: Call) -> Any:
    """A table picks along one dimension; along the others it stands beside the elements, in full
    or as one that broadcasts, and cannot be shortened.
    """
    source: Value = call.args[0]
    broadcasts = operator_name(call.target) == "aten.take_along_dim"
    if broadcasts and call.arg(2, "dim") is None:  # of everything, flattened
        raise NotImplementedError
    table = call.arg(1, "indices") if broadcasts else call.arg(2, "index")
    beside = frozenset(
        d for d in range(table.rank) if table.shape[d] > 1 or not broadcasts
    ) - indexed_dims(call)
    for labels in source.axes:
        for dim in varying(labels) & beside:
            follows = [a for a in table.axes if varying(a) == {dim}]
            if follows and varying(labels) == {dim}:
                call.record.unite(vector(labels, dim), vector(follows[0], dim))
            else:
                call.record.pin(labels, "stands beside a table of indices")
    return index(call)


@register_rule("aten.index", "aten.index_select")
def index(call: Call) -> Any:
    """Indexing by constant tables runs on the labels; by computed ones only where labels do not
    change.
    """
    source: Value = call.args[0]
    indices = call.values()[1:]
    if all(v.const is not None for v in indices):
        return movement(call)
    axes = []
    for pick, labels in enumerate(source.axes):
        swapped = replace_indices_with_zero(call)
        moved = squash(run_on_labels(swapped, pick))
        opened = indexed_dims(call)
        if varying(labels) & opened:
            call.record.pin(labels, "indexed by a computed tensor")
        axes.append(moved)
    return replace(call.out, axes=tuple(axes))


def replace_indices_with_zero(call: Call) -> Call:
    """The same call with every computed index table replaced by zeros."""

    def swap(item: Any) -> Any:
        if isinstance(item, Value) and item.const is None:
            zeros = torch.zeros(item.shape, dtype=torch.int64)
            return replace(item, const=zeros, axes=())
        if isinstance(item, (list, tuple)):
            return type(item)(swap(part) for part in item)
        return item

    return replace(call, args=(call.args[0], *swap(call.args[1:])))


@register_rule("aten.slice_scatter")
def slice_scatter(call: Call) -> Any:
    """A part along one axis is replaced: it meets what stood there."""
    source, part = call.args[:2]
    dim = call.arg(2, "dim", 0) % source.rank
    size = source.shape[dim]
    start, end = (
        size if n is None else max(n + size, 0) if n < 0 else min(n, size)
        for n in (call.arg(3, "start") or 0, call.arg(4, "end"))
    )
    if call.arg(5, "step", 1) != 1:
        raise NotImplementedError
    there = replace(
        source,
        shape=part.shape,
        axes=tuple(squash(a.narrow(dim, start, end - start)) for a in source.axes),
    )
    meet(call, [there, part], part.shape)
    return replace(call.out, axes=source.axes)


@register_rule("aten.embedding")
def embedding(call: Call) -> Any:
    """Rows of a table: its channel axis is the last one."""
    table: Value = call.args[0]
    axes = []
    for labels in table.axes:
        if varying(labels) == frozenset({1}):
            axes.append(labels[0].expand(call.out.shape))
        else:
            call.record.pin(labels, "rows of an embedding table")
    return replace(call.out, axes=tuple(axes))
