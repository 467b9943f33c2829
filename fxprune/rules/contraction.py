"""Contractions with a weight: the contracted axis consumes its labels, the weight's other axis
brings new ones.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from fxprune.graph.convolution import (
    CONVOLUTIONS,
    GENERAL,
    TRANSPOSED,
    Convolution,
    read_convolution,
)
from fxprune.graph.nodes import reads_input
from fxprune.graph.operators import operator_name
from fxprune.rules.labels import Value, distinct, varying, vector
from fxprune.rules.pointwise import meet
from fxprune.rules.recorder import Consumer
from fxprune.rules.registry import Call, register_rule


def only_axis(call: Call, value: Value, dim: int) -> tuple[Tensor | None, list[Tensor]]:
    """Split a value's label tensors: the one along `dim`, tied to be constant elsewhere, and the
    rest.

    Where several change along `dim` (heads and the channels in them, side by side after a
    reshape), the finest is contracted and the others stay.
    """
    along = sorted((a for a in value.axes if dim in varying(a)), key=lambda a: len(distinct(a)))
    rest = [a for a in value.axes if dim not in varying(a)]
    for labels in along[:-1]:
        call.record.pin(labels, "changes along the contracted axis beside other channels")
    return (call.record.tie(along[-1], varying(along[-1]) - {dim}) if along else None), rest


def consume(
    call: Call, source: Value, dim: int, read: Tensor | None, weight: Value, kept: Tensor | None
) -> None:
    """Unite what is read with the weight's contracted axis, (size,) each, and note the consumer."""
    if kept is None:
        if read is not None:
            call.record.pin(read, "contracted with a tensor that is not a weight")
        return
    # Labels of an activation may be those of the weight that made it.
    owner = None if reads_input(operand_node(call, weight)) else call.record.owner(kept)
    if read is None:
        call.record.pin(
            kept, "reads channels that stay" if owner else "contracted with unlabeled channels"
        )
        return
    call.record.unite(read, kept)
    if weight.parameter is None:
        call.record.multiply(operand_node(call, weight), operand_node(call, source), kept)
    if owner is not None and torch.equal(owner.labels.flatten(), kept):
        node = operand_node(call, source)
        call.record.consumers.append(
            Consumer(call.node.name, node.name, dim, owner.parameter, owner.axis)
        )


def operand_node(call: Call, operand: Value) -> Node:
    """The node that a positional argument, or one in a list of them, comes from."""
    places = zip(call.args, call.node.args, strict=True)
    flat = [pair for value, node in places for pair in _flat_pairs(value, node)]
    node = next(node for value, node in flat if value is operand)
    assert isinstance(node, Node)
    return node


def _flat_pairs(value: Any, node: Any) -> list[tuple[Any, Any]]:
    """What an argument or a list of them is, with where it comes from."""
    if isinstance(value, (list, tuple)):
        return list(zip(value, node, strict=True))
    return [(value, node)]


@register_rule("aten.linear")
def linear(call: Call) -> Any:
    """y = x W^T + b over the last axis."""
    source, weight = call.args[0], call.args[1]
    bias = call.arg(2, "bias")
    last = source.rank - 1
    if not source.shape[last]:
        raise NotImplementedError
    read, rest = only_axis(call, source, last)
    contracted, _ = only_axis(call, weight, 1)
    consume(
        call,
        source,
        last,
        None if read is None else vector(read, last),
        weight,
        None if contracted is None else vector(contracted, 1),
    )
    axes = [a.narrow(last, 0, 1).expand(call.out.shape) for a in rest]
    produced, _ = only_axis(call, weight, 0)
    if produced is not None:
        axes.append(vector(produced, 0).expand(call.out.shape))
    out = replace(call.out, axes=tuple(axes))
    return replace(out, axes=meet(call, [out, bias], out.shape)) if bias is not None else out


@register_rule(*CONVOLUTIONS, GENERAL)
def convolution(call: Call) -> Any:
    """Input channels on axis 1 of the weight, output channels on axis 0; `groups` blocks of
    both. The other way round where the general operator says that it is transposed.
    """
    return _convolve(call, _read(call, "aten.conv{}d"))


@register_rule(*TRANSPOSED)
def transposed_convolution(call: Call) -> Any:
    """Input channels on axis 0 of the weight, output channels on axis 1."""
    return _convolve(call, _read(call, "aten.conv_transpose{}d"))


def _read(call: Call, form: str) -> Convolution:
    """How a call convolves; one of another package, for which a rule of this file is registered,
    has the arguments of torch's operator of the same rank.
    """
    name = operator_name(call.target)
    if name not in (*CONVOLUTIONS, *TRANSPOSED, GENERAL):
        name = form.format(call.args[1].rank - 2)
    convolution = read_convolution(name, call.args, call.kwargs)
    if convolution is None:
        raise NotImplementedError
    return convolution


def _convolve(call: Call, how: Convolution) -> Any:
    record = call.record
    source, weight = call.args[0], call.args[1]
    bias = call.arg(2, "bias")
    channel = how.channel(source.rank)
    read, _ = only_axis(call, source, channel)
    for labels in source.axes:
        if channel not in varying(labels):
            record.pin(labels, "convolved along its channels")
    for labels in weight.axes:
        if varying(labels) & frozenset(range(2, weight.rank)):
            record.pin(labels, "kernel positions of a convolution")
    flat = None if read is None else vector(read, channel)
    produced: Tensor | None
    if how.groups == 1:
        contracted, _ = only_axis(call, weight, how.inputs)
        kept = None if contracted is None else vector(contracted, how.inputs)
        consume(call, source, channel, flat, weight, kept)
        produced, _ = only_axis(call, weight, how.outputs)
        produced = None if produced is None else vector(produced, how.outputs)
    else:
        produced = _grouped(call, how, flat)
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


def _grouped(call: Call, how: Convolution, read: Tensor | None) -> Tensor | None:
    """Output labels of a grouped convolution, (O,); blocks of inputs and outputs keep equal
    counts.
    """
    record, source, weight = call.record, call.args[0], call.args[1]
    if weight.parameter is None:
        record.pin_value(weight, "computed weight of a grouped convolution")
        if read is not None:
            record.pin(read, "computed weight of a grouped convolution")
        return None
    channel, groups = how.channel(source.rank), how.groups
    per_group = source.shape[channel] // groups
    ends: tuple[Any, ...] = (0,) * (weight.rank - 2)
    # A grouped convolution may be left with one input channel per group; it still does not tie its
    # outputs.
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
    columns = record.axis(weight.parameter, weight.shape, 1, groups)[
        (slice(None, None, rows_each), slice(None), *ends)
    ]
    if how.transposed:
        return _grouped_transposed(call, groups, read, rows=produced, columns=columns)
    record.block(produced.view(groups, -1))
    if read is None:
        record.pin(columns, "reads channels that stay")
    else:
        record.unite(read.view(groups, -1), columns)
        record.block(read.view(groups, -1))
        node = call.node.args[0]
        assert isinstance(node, Node)
        record.consumers.append(
            Consumer(call.node.name, node.name, channel, weight.parameter, 1, groups)
        )
    return produced


def _grouped_transposed(
    call: Call, groups: int, read: Tensor | None, rows: Tensor, columns: Tensor
) -> Tensor:
    """Output labels of a grouped transposed convolution, (O,): `rows` (I,) of its weight are read,
    `columns` (groups, O / groups) made.

    It is no consumer: an interpolation would have to stay within the groups, which share one axis
    of the weight.
    """
    call.record.block(columns)
    call.record.block(rows.view(groups, -1))
    if read is None:
        call.record.pin(rows, "reads channels that stay")
    else:
        call.record.unite(rows, read)
    return columns.reshape(-1)
