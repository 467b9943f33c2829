"""Contractions: the contracted axis consumes its labels, the weight's other axis brings new ones."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fxprune.rules.labels import Value, narrow_constant, squash, varying, vector
from fxprune.rules.pointwise import meet
from fxprune.rules.recorder import Consumer
from fxprune.rules.registry import Call, register_rule


def only_axis(call: Call, value: Value, dim: int) -> tuple[Tensor | None, list[Tensor]]:
    """Split a value's label tensors: the one along `dim`, tied to be constant elsewhere, and the rest.

    Where several change along `dim` (heads and the channels in them, side by side after a reshape), the finest is contracted and the
    others stay.
    """
    along = sorted((a for a in value.axes if dim in varying(a)), key=lambda a: narrow_constant(a).unique().numel())
    rest = [a for a in value.axes if dim not in varying(a)]
    for labels in along[:-1]:
        call.record.pin(labels, "changes along the contracted axis beside other channels")
    return (call.record.tie(along[-1], varying(along[-1]) - {dim}) if along else None), rest


def consume(call: Call, source: Value, dim: int, read: Tensor | None, weight: Value, kept: Tensor | None) -> None:
    """Unite what is read with the weight's contracted axis, (size,) each, and note the consumer."""
    if kept is None:
        if read is not None:
            call.record.pin(read, "contracted with a tensor that is not a weight")
        return
    owner = call.record.owner(kept)
    if read is None:
        call.record.pin(kept, "reads channels that stay" if owner else "contracted with unlabelled channels")
        return
    call.record.unite(read, kept)
    position = next(i for i, a in enumerate(call.node.args) if call.args[i] is source)
    if owner is not None and torch.equal(owner.labels.flatten(), kept):
        node = call.node.args[position]
        call.record.consumers.append(Consumer(call.node.name, str(node.name), dim, owner.parameter, owner.axis))  # type: ignore[union-attr]


@register_rule("aten.linear")
def linear(call: Call) -> Any:
    """y = x W^T + b over the last axis."""
    source, weight = call.args[0], call.args[1]
    bias = call.arg(2, "bias")
    last = source.rank - 1
    read, rest = only_axis(call, source, last)
    contracted, _ = only_axis(call, weight, 1)
    consume(call, source, last, None if read is None else vector(read, last), weight,
            None if contracted is None else vector(contracted, 1))
    axes = [a.narrow(last, 0, 1).expand(call.out.shape) for a in rest]
    produced, _ = only_axis(call, weight, 0)
    if produced is not None:
        axes.append(vector(produced, 0).expand(call.out.shape))
    out = replace(call.out, axes=tuple(axes))
    return replace(out, axes=meet(call, [out, bias], out.shape)) if bias is not None else out


CONVOLUTIONS = ("aten.conv1d", "aten.conv2d", "aten.conv3d")
TRANSPOSED = ("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")


@register_rule(*CONVOLUTIONS, "aten.convolution")
def convolution(call: Call) -> Any:
    """Input channels on axis 1 of the weight, output channels on axis 0; `groups` blocks of both."""
    groups = call.arg(6, "groups", 1)
    if call.target is torch.ops.aten.convolution.default:
        groups = call.args[8]
        if call.args[6]:
            return _convolve(call, groups, inputs=0, outputs=1)
    return _convolve(call, groups, inputs=1, outputs=0)


@register_rule(*TRANSPOSED)
def transposed_convolution(call: Call) -> Any:
    """Input channels on axis 0 of the weight, output channels on axis 1."""
    return _convolve(call, call.arg(6, "groups", 1), inputs=0, outputs=1)


def _convolve(call: Call, groups: int, inputs: int, outputs: int) -> Any:
    record = call.record
    source, weight = call.args[0], call.args[1]
    bias = call.arg(2, "bias")
    channel = source.rank - len(weight.shape) + 1
    read, _ = only_axis(call, source, channel)
    for labels in source.axes:
        if channel not in varying(labels):
            record.pin(labels, "convolved along its channels")
    for labels in weight.axes:
        if varying(labels) & frozenset(range(2, weight.rank)):
            record.pin(labels, "kernel positions of a convolution")
    produced: Tensor | None
    if groups == 1:
        contracted, _ = only_axis(call, weight, inputs)
        consume(call, source, channel, None if read is None else vector(read, channel), weight,
                None if contracted is None else vector(contracted, inputs))
        produced, _ = only_axis(call, weight, outputs)
        produced = None if produced is None else vector(produced, outputs)
    else:
        produced = _grouped(call, groups, inputs, None if read is None else vector(read, channel))
    axes: tuple[Tensor, ...] = ()
    if produced is not None:
        view = [1] * call.out.rank
        view[channel] = -1
        axes = (produced.view(view).expand(call.out.shape),)
        if bias is not None:
            for labels in bias.axes:
                record.unite(labels, produced)
    elif bias is not None:
        record.pin_value(bias, "the weight's output axis cannot be shortened")
    return replace(call.out, axes=axes)


def _grouped(call: Call, groups: int, inputs: int, read: Tensor | None) -> Tensor | None:
    """Output labels of a grouped convolution, (O,); blocks of inputs and outputs keep equal counts."""
    record, source, weight = call.record, call.args[0], call.args[1]
    if weight.parameter is None:
        record.pin_value(weight, "computed weight of a grouped convolution")
        if read is not None:
            record.pin(read, "computed weight of a grouped convolution")
        return None
    channel = source.rank - weight.rank + 1
    per_group = source.shape[channel] // groups
    ends: tuple[Any, ...] = (0,) * (weight.rank - 2)
    # A grouped convolution may be left with one input channel per group; it still does not tie its outputs.
    depthwise = per_group == 1 and not record.has_axis(weight.parameter, 1)
    produced = record.axis(weight.parameter, weight.shape, 0)[(slice(None), 0, *ends)]
    if depthwise:
        # Each input channel owns its output channels, and nothing is mixed.
        rows = produced.view(groups, -1)
        record.unite(rows, rows[:, :1])
        if read is None:
            record.pin(produced, "reads channels that stay")
        else:
            record.unite(rows[:, 0], read)
        return produced
    if not record.blockwise(weight.parameter, 1, groups):
        record.pin_value(weight, "input axis of a grouped convolution used in another way")
        if read is not None:
            record.pin(read, "input axis of a grouped convolution used in another way")
        return None
    rows_each = weight.shape[0] // groups
    columns = record.axis(weight.parameter, weight.shape, 1, groups)[(slice(None, None, rows_each), slice(None), *ends)]
    if inputs == 0:
        return _grouped_transposed(call, groups, read, rows=produced, columns=columns)
    record.block(produced.view(groups, -1))
    if read is None:
        record.pin(columns, "reads channels that stay")
    else:
        record.unite(read.view(groups, -1), columns)
        record.block(read.view(groups, -1))
        node = call.node.args[0]
        record.consumers.append(
            Consumer(call.node.name, str(node.name), channel, weight.parameter, 1, groups)  # type: ignore[union-attr]
        )
    return produced


def _grouped_transposed(call: Call, groups: int, read: Tensor | None, rows: Tensor, columns: Tensor) -> Tensor:
    """Output labels of a grouped transposed convolution, (O,): `rows` (I,) of its weight are read, `columns` (groups, O / groups) made.

    It is no consumer: an interpolation would have to stay within the groups, which share one axis of the weight.
    """
    call.record.block(columns)
    call.record.block(rows.view(groups, -1))
    if read is None:
        call.record.pin(rows, "reads channels that stay")
    else:
        call.record.unite(rows, read)
    return columns.reshape(-1)


def _batched(value: Value, labels: Tensor, rank: int) -> Tensor:
    """A label tensor with leading dimensions added up to `rank`."""
    return labels.view(*[1] * (rank - value.rank), *labels.shape) if rank > value.rank else labels


@register_rule("aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.dot")
def matmul(call: Call) -> Any:
    """(..., M, K) @ (..., K, N) with broadcasting batch dimensions."""
    return replace(call.out, axes=_matmul(call, call.args[0], call.args[1], call.out.shape))


@register_rule("aten.addmm", "aten.baddbmm")
def addmm(call: Call) -> Any:
    """input + a @ b."""
    out = replace(call.out, axes=_matmul(call, call.args[1], call.args[2], call.out.shape))
    return replace(out, axes=meet(call, [out, call.args[0]], out.shape))


def _matmul(call: Call, left: Value, right: Value, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    record = call.record
    if left.rank < 2 or right.rank < 2:
        for value in (left, right):
            record.pin_value(value, "product with a vector")
        return ()
    rank = len(shape)
    row, column = rank - 2, rank - 1
    passed: list[list[Tensor]] = []
    inner: list[list[Tensor]] = []
    for value, contracted, free in ((left, column, row), (right, row, column)):
        inner.append([])
        passed.append([])
        for labels in value.axes:
            labels = _batched(value, labels, rank)
            if contracted not in varying(labels):
                target = list(shape)
                passed[-1].append(squash(labels.narrow(contracted, 0, 1).expand(target)))
            else:
                labels = record.tie(labels, frozenset({free}))
                inner[-1].append(labels.movedim(contracted, -1).narrow(-2, 0, 1))
    if len(inner[0]) == 1 == len(inner[1]):
        read, kept = inner[0][0], inner[1][0]
        if varying(squash(kept)) <= {rank - 1} and varying(squash(read)) <= {rank - 1}:
            weight_right = record.owner(kept) is not None and right.parameter is None or right.parameter is not None
            flat_read, flat_kept = vector(read, rank - 1), vector(kept, rank - 1)
            if weight_right or left.parameter is None:
                consume(call, left, left.rank - 1, flat_read, right, flat_kept)
            else:
                consume(call, right, right.rank - 2, flat_kept, left, flat_read)
        else:
            record.unite(read, kept)
            record.block_structure(read)
    else:
        for labels in inner[0] + inner[1]:
            record.pin(labels, "contracted with a tensor that is not a weight")
    axes = tuple(a for side in passed for a in side if varying(a))
    sides = [replace(call.out, shape=_within(v, shape), axes=tuple(p)) for v, p in zip((left, right), passed, strict=True)]
    shared = {d for d in range(row) if all(side.shape[d] > 1 for side in sides)}
    heads = [a for a in axes if varying(a) <= shared]
    if not record.heads(heads):
        return tuple(a for a in axes if not varying(a) <= shared)
    # What both operands carry along a batch dimension meets elementwise.
    return meet(call, sides, shape)


def _within(value: Value, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of an operand beside the result of a product: its matrix dimensions broadcast, its batch dimensions stand."""
    batch = value.shape[:-2]
    return (*[1] * (len(shape) - 2 - len(batch)), *batch, 1, 1)


@register_rule("aten.scaled_dot_product_attention")
def attention(call: Call) -> Any:
    """Queries and keys are contracted with each other; the values' channels pass to the output."""
    record = call.record
    query, key, value = call.args[:3]
    last = query.rank - 1
    mask = call.arg(3, "attn_mask")
    inner, heads = [], []
    for labels in mask.axes if mask is not None else ():
        if varying(labels) == {mask.rank - 3}:
            heads.append((mask, labels))
        else:
            record.pin(labels, "added to attention scores")
    for operand in (query, key):
        along, rest = None, []
        for labels in operand.axes:
            if last in varying(labels):
                along = record.tie(labels, frozenset({last - 1})) if along is None else along
            elif varying(labels) == {last - 2} and operand.shape[last - 2] == query.shape[last - 2]:
                heads.append((operand, labels))
            else:
                rest.append(labels)
        for labels in rest:
            record.pin(labels, "a channel axis stands where attention has positions or heads")
        inner.append(None if along is None else along.narrow(last - 1, 0, 1))
    read, kept = inner
    if read is None or kept is None:
        for labels in inner:
            if labels is not None:
                record.pin(labels, "contracted with a tensor that is not a weight")
    else:
        if kept.shape[-3] != read.shape[-3]:
            kept = kept.repeat_interleave(read.shape[-3] // kept.shape[-3], -3)
        record.unite(read, kept)
    axes = []
    for labels in value.axes:
        if last - 1 in varying(labels):
            record.pin(labels, "a channel axis stands where attention has positions or heads")
            continue
        labels = labels.narrow(last - 1, 0, 1)
        if labels.shape[-3] != call.out.shape[-3]:
            labels = labels.repeat_interleave(call.out.shape[-3] // labels.shape[-3], -3)
        axes.append(squash(labels.expand(call.out.shape)))
    passed = replace(value, shape=_within(value, call.out.shape), axes=tuple(axes))
    if not record.heads([a for _, a in heads] + [a for a in axes if varying(a) <= {last - 2}]):
        return replace(call.out, axes=tuple(a for a in axes if not varying(a) <= {last - 2}))
    # Queries, keys, values and what is added to the scores lose the same heads.
    sides = [
        replace(v, shape=_within(v, call.out.shape), axes=tuple(_spread(a, call.out.shape) for o, a in heads if o is v))
        for v in (query, key, mask)
        if v is not None
    ]
    return replace(call.out, axes=meet(call, [*sides, passed], call.out.shape))


def _spread(labels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Head labels as those of the result."""
    return squash(labels.narrow(-1, 0, 1).narrow(-2, 0, 1).expand(shape))


@register_rule("aten.einsum")
def einsum(call: Call) -> Any:
    """Named axes: a letter missing from the result is contracted, every other passes."""
    equation, operands = call.args[0].replace(" ", ""), call.args[1]
    record = call.record
    if "." in equation or "->" not in equation or len(operands) != 2:
        raise NotImplementedError
    inputs, output = equation.split("->")
    names = inputs.split(",")
    letters = sorted(set(inputs) - {","})
    sizes = {n: s for term, v in zip(names, operands, strict=True) for n, s in zip(term, v.shape, strict=True)}
    spread: list[list[Tensor]] = []
    for term, value in zip(names, operands, strict=True):
        spread.append([])
        for labels in value.axes:
            order = sorted(range(len(term)), key=lambda i: term[i])
            moved = labels.permute(order)
            view = [sizes[n] if n in term else 1 for n in letters]
            spread[-1].append(squash(moved.reshape(view)).expand([sizes[n] for n in letters]))
    lost = frozenset(i for i, n in enumerate(letters) if n not in output)
    axes: list[Tensor] = []
    inner: list[list[Tensor]] = [[], []]
    for side in (0, 1):
        for labels in spread[side]:
            if varying(labels) & lost:
                inner[side].append(labels)
            else:
                axes.append(labels)
    if len(inner[0]) == 1 == len(inner[1]) and varying(inner[0][0]) == varying(inner[1][0]):
        record.unite(inner[0][0], inner[1][0])
        record.block_structure(inner[0][0])
    else:
        for labels in inner[0] + inner[1]:
            record.pin(labels, "contracted with a tensor that is not a weight")
    # Axes that both operands carry and that survive meet elementwise.
    for i, first in enumerate(axes):
        for second in axes[i + 1 :]:
            if varying(first) & varying(second):
                record.unite(first, second)
    result = []
    for labels in axes:
        for dim in sorted(lost, reverse=True):
            labels = labels.select(dim, 0)
        rest = [n for n in letters if n in output]
        result.append(squash(labels.permute([rest.index(n) for n in output])))
    seen: set[int] = set()
    unique = []
    for labels in result:
        if not varying(labels) & seen:
            seen |= varying(labels)
            unique.append(labels)
    return replace(call.out, axes=tuple(unique))
