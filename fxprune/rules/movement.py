"""Data movement: the very same operator runs on the labels."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fxprune.graph.operators import operator_name
from fxprune.rules.labels import Value, narrow_constant, reshaped, squash, varying
from fxprune.rules.registry import Call, register_rule

MOVEMENT = (
    "aten.view aten.reshape aten._unsafe_view aten.flatten aten.unflatten aten.permute "
    "aten.transpose aten.t aten.numpy_T "
    "aten.split aten.split_with_sizes aten.chunk aten.tensor_split aten.unbind aten.select "
    "aten.slice aten.narrow "
    "aten.roll aten.squeeze aten.unsqueeze aten.expand aten.repeat "
    "aten.repeat_interleave aten.unfold "
    "aten.pixel_shuffle aten.pixel_unshuffle "
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
    source = call.args[0]
    if not isinstance(source, Value):  # several tensors at once
        raise NotImplementedError
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


@register_rule("aten.channel_shuffle", "aten.native_channel_shuffle")
def channel_shuffle(call: Call) -> Any:
    """Channels at the same place of each group go together: the groups stay alike, and in turn."""
    for labels in call.args[0].axes:
        if 1 in varying(labels):
            rows = labels.movedim(1, 0).unflatten(0, (call.args[1], -1))
            call.record.unite(rows, rows[:1])
    return movement(call)


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
        moved = set(indexed_dims(call))
    elif name == "pixel_unshuffle":
        moved = {source.rank - 2, source.rank - 1}
    elif name in ("unfold", "diagonal", "rot90"):
        moved = {call.args[1] % source.rank} if name == "unfold" else set(range(source.rank))
    else:
        return
    for labels in source.axes:
        if varying(labels) & moved:
            call.record.pin(labels, f"{name} along the channel axis")


def indexed_dims(call: Call) -> frozenset[int]:
    """Dimensions of the first argument that another one indexes."""
    source: Value = call.args[0]
    if isinstance(call.args[1], (list, tuple)):
        return frozenset(i for i, v in enumerate(call.args[1]) if v is not None)
    along = operator_name(call.target) == "aten.take_along_dim"
    return frozenset({call.arg(2 if along else 1, "dim") % source.rank})


@register_rule("_operator.getitem")
def getitem(call: Call) -> Any:
    """One of several results."""
    return call.args[0][call.args[1]]
