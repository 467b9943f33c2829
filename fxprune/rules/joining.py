"""Joining and padding: labels stand side by side along the axis that grows."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fxprune.rules.labels import FIXED, Value, squash, varying
from fxprune.rules.registry import Call, register_rule


def _fixed(value: Value) -> Tensor:
    """Labels of a tensor that nothing may shorten."""
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
            parts.append(own[0] if own else _fixed(value))
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
        parts = [v.axes[pick] if pick < len(v.axes) else _fixed(v) for v in operands]
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
            constant = call.arg(2, "mode", "constant") in ("constant", 0, 0.0)
            if before < 0 or after < 0 or not constant:
                raise NotImplementedError
            parts = [
                _padding(call, labels, dim, before),
                labels,
                _padding(call, labels, dim, after),
            ]
            labels = torch.cat(parts, dim)
        axes.append(squash(labels))
    return replace(call.out, axes=tuple(axes))


def _padding(call: Call, labels: Tensor, dim: int, count: int) -> Tensor:
    """New labels for this many elements beside a label tensor."""
    shape = [1] * labels.dim()
    shape[dim] = count
    full = list(labels.shape)
    full[dim] = count
    return call.record.fresh(*shape).expand(full)
