"""Elementwise operators: operands that meet are united."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fxprune.rules.labels import Value, squash, varying, vector
from fxprune.rules.registry import Call, register_rule


def aligned(labels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A label tensor broadcast to the shape of the result."""
    return labels.expand(shape)


def meet(call: Call, operands: list[Value], shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Unite label tensors of operands that broadcast against each other to `shape`.

    Label tensors that change along a common dimension meet there; an operand that has such a
    dimension in full but no label on it cannot be shortened, so its partners are pinned.
    """
    clusters: list[tuple[set[int], list[Tensor], set[int]]] = []
    for index, value in enumerate(operands):
        for labels in value.axes:
            labels = aligned(labels, shape)
            dims = set(varying(labels))
            if not dims:
                continue
            members, owners = [labels], {index}
            for cluster in [c for c in clusters if c[0] & dims]:
                clusters.remove(cluster)
                dims |= cluster[0]
                members = cluster[1] + members
                owners |= cluster[2]
            clusters.append((dims, members, owners))
    result = []
    for dims, members, owners in clusters:
        for other in members[1:]:
            call.record.unite(members[0], other)
        for index, value in enumerate(operands):
            offset = len(shape) - value.rank
            full = any(d >= offset and value.shape[d - offset] > 1 for d in dims)
            if full and index not in owners:
                call.record.pin(members[0], "meets a tensor that is not produced by a weight")
        # All members are one by now: the one that changes along the fewest dimensions tells most
        # (heads that go as a whole).
        result.append(min(members, key=lambda m: len(varying(m))))
    return tuple(result)


def pointwise(call: Call) -> Any:
    """Residual additions, gates, activations, layer scale, BatchNorm's vectors: everything
    elementwise.
    """
    if not isinstance(call.out, Value):
        raise NotImplementedError
    axes = meet(call, call.values(), call.out.shape)
    return replace(call.out, axes=tuple(squash(a) for a in axes))


IDENTITY = (
    "aten.clone aten.contiguous aten.dropout aten.feature_dropout aten.alpha_dropout aten.detach "
    "aten.alias "
    "aten._to_copy aten.lift_fresh_copy aten.lift_fresh aten.masked_fill aten.where aten.float "
    "aten.zero aten.zeros_like aten.ones_like aten.full_like aten._assert_tensor_metadata "
    "aten.empty_like aten.rand_like aten.bernoulli aten.copy"
).split()
# Elementwise, though torch does not tag them so.
UNTAGGED = (
    "aten.hardswish aten.log_sigmoid aten.divide aten.multiply aten.subtract aten.true_divide "
    "aten.floor_divide aten.absolute aten.arctan "
    "aten.special_expit aten.special_erf aten.greater aten.less aten.fill aten.clip aten.square "
    "aten.gelu aten.silu aten.mish aten.rsub"
).split()
register_rule(*IDENTITY, *UNTAGGED)(pointwise)


@register_rule("aten.to", "aten.type_as")
def convert(call: Call) -> Any:
    """What it is converted to may be given by another tensor, whose channels have no part in it."""
    return pointwise(replace(call, args=call.args[:1], kwargs={}))


@register_rule("aten.new_empty", "aten.new_empty_strided")
def made_anew(call: Call) -> Any:
    """Only type and device are taken from the tensor."""
    return call.out


@register_rule("aten.prelu", "aten._prelu_kernel")
def prelu(call: Call) -> Any:
    """The slopes lie along axis 1 of the input."""
    source, slope = call.args[0], call.args[1]
    if slope.rank == 1 and source.rank > 1 and slope.shape[0] > 1:
        view = [1, -1] + [1] * (source.rank - 2)
        axes = tuple(squash(a.view(view)) for a in slope.axes)
        slope = replace(slope, shape=tuple(axes[0].shape) if axes else slope.shape, axes=axes)
    return pointwise(replace(call, args=(source, slope)))


@register_rule("aten.glu")
def glu(call: Call) -> Any:
    """One half of an axis gates the other: the halves are united."""
    source: Value = call.args[0]
    dim = call.arg(1, "dim", -1) % source.rank
    half = source.shape[dim] // 2
    axes = []
    for labels in source.axes:
        first, second = squash(labels.narrow(dim, 0, half)), squash(labels.narrow(dim, half, half))
        call.record.unite(first, second)
        if dim in varying(labels):
            call.record.block(torch.stack([vector(first, dim), vector(second, dim)]))
        axes.append(first)
    return replace(call.out, axes=tuple(axes))
