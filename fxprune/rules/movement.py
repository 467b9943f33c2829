"""Data movement: the very same operator runs on the labels."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fxprune.graph.operators import operator_name
from fxprune.rules.labels import FIXED, Value, narrow_constant, reshaped, squash, varying
from fxprune.rules.pointwise import meet
from fxprune.rules.registry import Call, register_rule

MOVEMENT = (
    "aten.view aten.reshape aten._unsafe_view aten.flatten aten.unflatten aten.permute "
    "aten.transpose aten.t aten.numpy_T "
    "aten.split aten.split_with_sizes aten.chunk aten.tensor_split aten.unbind aten.select "
    "aten.slice aten.narrow "
    "aten.roll aten.squeeze aten.unsqueeze aten.expand aten.expand_as aten.view_as "
    "aten.reshape_as aten.repeat "
    "aten.repeat_interleave aten.unfold "
    "aten.pixel_shuffle aten.pixel_unshuffle aten.channel_shuffle aten.native_channel_shuffle "
    "aten.movedim aten.swapaxes "
    "aten.flip aten.tile aten.broadcast_to aten.adjoint aten.mT aten.diagonal aten.rot90 "
    "aten.atleast_2d aten.atleast_3d"
).split()


RESHAPES = frozenset({"aten.view", "aten._unsafe_view", "aten.reshape"})
ALONG = {"aten.roll": 2, "aten.flip": 1}
"""Operators that move elements along the dimensions given by this argument, and leave every other
alone.
"""


def run_on_labels(call: Call, pick: int) -> Any:
    """Run the operator with the `pick`-th label tensor of each argument in its place."""

    def swap(item: Any) -> Any:
        if isinstance(item, Value):
            if item.const is not None and not item.axes:
                return item.const
            return (
                item.axes[pick]
                if pick < len(item.axes)
                else torch.zeros((), dtype=torch.int64).expand(item.shape)
            )
        if isinstance(item, (list, tuple)):
            return type(item)(swap(part) for part in item)
        return item

    args, kwargs = (
        swap(call.args),
        {k: swap(v) for k, v in call.kwargs.items() if k != "memory_format"},
    )
    name = operator_name(call.target)
    if name in RESHAPES and isinstance(args[1], (list, tuple)):
        # Labels are stride-0 views of another layout than the tensor's: what is a view there may
        # need a copy here.
        return reshaped(args[0], _filled(args[1], args[0].numel()))
    if name in ALONG and call.arg(ALONG[name], "dims"):
        return call.target(narrow_constant(args[0]), *args[1:], **kwargs).expand(args[0].shape)
    return call.target(*args, **kwargs)


def _filled(shape: Sequence[int], count: int) -> tuple[int, ...]:
    """A shape for `count` elements with its -1 as a size."""
    known = math.prod(size for size in shape if size != -1)
    return tuple(count // max(known, 1) if size == -1 else size for size in shape)


@register_rule(*MOVEMENT)
def movement(call: Call) -> Any:
    """View, reshape, permute, split, slice, roll, expand, shuffle..."""
    source = call.values()[0]
    _pin_broken_order(call, source)
    results = [run_on_labels(call, pick) for pick in range(len(source.axes))]
    if isinstance(call.out, Value):
        axes = _several(call, [squash(r) for r in results])
        for labels in axes:
            call.record.block_structure(labels)
        return replace(call.out, axes=axes)
    return type(call.out)(
        replace(out, axes=_several(call, [squash(r[i]) for r in results]))
        for i, out in enumerate(call.out)
    )


def _several(call: Call, axes: list[Tensor]) -> tuple[Tensor, ...]:
    """Label tensors that still change; a tensor that is left with one channel would vanish with
    it, so that one stays.
    """
    for labels in axes:
        if not varying(labels) and labels.numel():
            call.record.pin(labels, "is the only channel of a tensor")
    return tuple(a for a in axes if varying(a))


def _pin_broken_order(call: Call, source: Value) -> None:
    """Rolling, striding or indexing along a channel axis has no equivalent on fewer channels."""
    name = operator_name(call.target).removeprefix("aten.")
    if name == "roll":
        dims = call.arg(2, "dims", ())
        moved = {d % source.rank for d in ([dims] if isinstance(dims, int) else dims)} or set(
            range(source.rank)
        )
    elif name == "slice" and call.arg(4, "step", 1) != 1:
        moved = {call.arg(1, "dim", 0) % source.rank}
    elif name in ("index", "index_select", "gather", "take_along_dim"):
        moved = set(_indexed_dims(call))
    elif name in ("unfold", "diagonal", "rot90"):
        moved = {call.args[1] % source.rank} if name == "unfold" else set(range(source.rank))
    else:
        return
    for labels in source.axes:
        if varying(labels) & moved:
            call.record.pin(labels, f"{name} along the channel axis")


@register_rule("_operator.getitem")
def getitem(call: Call) -> Any:
    """One of several results."""
    return call.args[0][call.args[1]]


def _pad_unlabeled(value: Value) -> Tensor:
    return torch.full((), FIXED, dtype=torch.int64).expand(value.shape)


def _side_by_side(parts: list[Tensor], dim: int) -> Tensor:
    """`torch.cat(parts, dim)` squashed, without copies along dimensions on which no part
    changes.
    """
    shape = list(parts[0].shape)
    for d, size in enumerate(shape):
        if d != dim and all(p.stride(d) == 0 and p.shape[d] == size for p in parts):
            parts = [p.narrow(d, 0, 1) for p in parts]
    shape[dim] = sum(p.shape[dim] for p in parts)
    return squash(torch.cat(parts, dim).expand(shape))


@register_rule("aten.cat", "aten.concat", "aten.concatenate")
def concatenate(call: Call) -> Any:
    """Along the joined axis labels stand side by side; along the others they must agree, so they
    are united.
    """
    operands: list[Value] = [v for v in call.args[0] if v.shape != (0,)]
    dim = call.arg(1, "dim", 0) % call.out.rank
    across = [a for v in operands for a in v.axes if dim in varying(a)]
    along = [[a for a in v.axes if dim not in varying(a)] for v in operands]
    axes = []
    if across:
        parts = []
        for value in operands:
            own = [a for a in value.axes if dim in varying(a)]
            for extra in own[1:]:
                call.record.pin(extra, "two channel axes meet in a concatenation")
            parts.append(own[0] if own else _pad_unlabeled(value))
        axes.append(_side_by_side(parts, dim))
        call.record.block_structure(axes[0])
    dims: dict[frozenset[int], list[Tensor]] = {}
    for labels in (a for group in along for a in group):
        if varying(labels):
            dims.setdefault(varying(labels), []).append(labels.narrow(dim, 0, 1))
    for members in dims.values():
        for other in members[1:]:
            call.record.unite(members[0], other)
        if len(members) < len(operands):
            call.record.pin(members[0], "joined to a tensor that is not produced by a weight")
        axes.append(members[0].expand(call.out.shape))
    return replace(call.out, axes=tuple(axes))


@register_rule("aten.stack")
def stack(call: Call) -> Any:
    """A new axis; each operand keeps its labels."""
    operands: list[Value] = call.args[0]
    dim = call.arg(1, "dim", 0) % call.out.rank
    count = max((len(v.axes) for v in operands), default=0)
    axes = []
    for pick in range(count):
        parts = [v.axes[pick] if pick < len(v.axes) else _pad_unlabeled(v) for v in operands]
        axes.append(_side_by_side([p.unsqueeze(dim) for p in parts], dim))
        call.record.block_structure(axes[-1])
    return replace(call.out, axes=tuple(axes))


@register_rule(
    "aten.constant_pad_nd",
    "aten.pad",
    "aten.reflection_pad2d",
    "aten.replication_pad2d",
    "aten.reflection_pad1d",
    "aten.replication_pad1d",
    "aten.replication_pad3d",
    "aten.reflection_pad3d",
)
def pad(call: Call) -> Any:
    """Padding along a channel axis makes channels of its own; elsewhere it only lengthens."""
    source: Value = call.args[0]
    amounts = list(call.args[1])
    axes = []
    for labels in source.axes:
        for index in range(len(amounts) // 2):
            dim = source.rank - 1 - index
            before, after = amounts[2 * index], amounts[2 * index + 1]
            if not before and not after:
                continue
            if dim not in varying(labels):
                shape = list(labels.shape)
                shape[dim] += before + after
                labels = labels.narrow(dim, 0, 1).expand(shape)
                continue
            if (
                before < 0
                or after < 0
                or call.arg(2, "mode", "constant") not in ("constant", 0, 0.0)
            ):
                raise NotImplementedError
            parts = [labels]
            for count, place in ((before, 0), (after, 1)):
                if count:
                    shape = [1] * labels.dim()
                    shape[dim] = count
                    fresh = call.record.fresh(*shape)
                    full = list(labels.shape)
                    full[dim] = count
                    parts.insert(place * len(parts), fresh.expand(full))
            labels = torch.cat(parts, dim)
        axes.append(squash(labels))
    return replace(call.out, axes=tuple(axes))


@register_rule("aten.index", "aten.index_select", "aten.gather", "aten.take_along_dim")
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
        opened = _indexed_dims(call)
        if varying(labels) & opened:
            call.record.pin(labels, "indexed by a computed tensor")
        axes.append(moved)
    return replace(call.out, axes=tuple(axes))


def _indexed_dims(call: Call) -> frozenset[int]:
    source: Value = call.args[0]
    if isinstance(call.args[1], (list, tuple)):
        return frozenset(i for i, v in enumerate(call.args[1]) if v is not None)
    return frozenset({call.args[1] % source.rank})


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
