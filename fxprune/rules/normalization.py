"""Normalization: within a channel, or across channels with statistics that are kept.

What is normalized together with removed channels is divided by statistics over all of them, removed
ones as zeros: the rewritten call computes these (`fxprune.label.kept_statistics`), so that channels
may go that are zero once their weights are.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.fx import Node

from fxprune.rules.labels import Value, squash, varying, vector
from fxprune.rules.pointwise import meet
from fxprune.rules.recorder import Recorder
from fxprune.rules.reduction import along
from fxprune.rules.registry import Call, register_rule

ACROSS = "normalized across channels"
NOT_ZERO = f"{ACROSS}, and does not vanish with its weights"


@register_rule("aten.batch_norm", "aten._native_batch_norm_legit_no_training", "aten.instance_norm")
def batch_norm(call: Call) -> Any:
    """Per channel: the four vectors are united with the channels they act on."""
    source: Value = call.args[0]
    outs = call.out if isinstance(call.out, tuple) else (call.out,)
    axes = []
    channels = [a for a in source.axes if 1 in varying(a)]
    for labels in source.axes:
        if 1 not in varying(labels):
            call.record.pin(labels, "normalized over its channels")
    vectors = [v for v in call.args[1:5] if isinstance(v, Value)]
    if channels:
        labels = call.record.tie(channels[0], varying(channels[0]) - {1})
        _unite(call.record, vectors, vector(labels, 1))
        axes.append(labels)
    else:
        for value in vectors:
            call.record.pin_value(value, "normalizes the model's input")
    first = replace(outs[0], axes=tuple(axes))
    return (first, *outs[1:]) if isinstance(call.out, tuple) else first


def _unite(record: Recorder, vectors: list[Value], channels: Tensor) -> None:
    for value in vectors:
        for own in value.axes:
            record.unite(own, channels)


@register_rule("aten.group_norm", "aten.native_group_norm")
def group_norm(call: Call) -> Any:
    """Statistics are shared inside each group; every group keeps as many channels."""
    source: Value = call.args[0]
    groups = call.args[1]
    vectors = [v for v in call.args[2:4] if isinstance(v, Value)]
    if isinstance(call.out, Value) and groups == source.shape[1]:
        return batch_norm(replace(call, args=(source, *vectors)))
    mixed = frozenset(range(1, source.rank))
    own = next((labels for labels in source.axes if varying(labels) == {1}), None)
    if not isinstance(call.out, Value) or own is None:
        return _pinned_norm(call, mixed)
    others = replace(source, axes=tuple(a for a in source.axes if a is not own))
    kept = along(call, others, mixed, ACROSS)
    channels = vector(own, 1)
    call.record.block(channels.view(groups, -1))
    _unite(call.record, vectors, channels)
    _summed(call, own)
    return replace(call.out, axes=(*kept, own))


@register_rule("aten.layer_norm", "aten.rms_norm")
def layer_norm(call: Call) -> Any:
    """Channels along the normalized axes alone go one by one; those that also change elsewhere are
    tied along them.
    """
    source: Value = call.args[0]
    dims = frozenset(range(source.rank - len(call.args[1]), source.rank))
    kept = []
    for labels in source.axes:
        if varying(labels) <= dims:
            _summed(call, labels)
            kept.append(labels)
        else:
            kept.append(call.record.tie(labels, dims))
    result = replace(call.out, axes=tuple(kept))
    vectors = [v for v in call.args[2:4] if isinstance(v, Value)]
    return replace(result, axes=meet(call, [result, *vectors], result.shape))


def _summed(call: Call, labels: Tensor) -> None:
    """Removed channels must have added nothing to the statistics."""
    node = call.node.args[0]
    assert isinstance(node, Node)
    call.record.multiply(node, node, labels, NOT_ZERO)


@register_rule("aten.native_layer_norm", "aten._fused_rms_norm")
def norm_with_statistics(call: Call) -> Any:
    """Mixes the normalized axes and returns the statistics: channels there stay."""
    source: Value = call.args[0]
    shape = call.args[1]
    return _pinned_norm(call, frozenset(range(source.rank - len(shape), source.rank)))


def _pinned_norm(call: Call, dims: frozenset[int]) -> Any:
    source: Value = call.args[0]
    outs = call.out if isinstance(call.out, tuple) else (call.out,)
    kept = along(call, source, dims, ACROSS)
    for value in call.values()[1:]:
        call.record.pin_value(value, ACROSS)
    first = replace(outs[0], axes=kept)
    rest = [replace(out, axes=_of_statistics(kept, dims, out.shape)) for out in outs[1:]]
    return (first, *rest) if isinstance(call.out, tuple) else first


def _of_statistics(
    axes: tuple[Tensor, ...], dims: frozenset[int], shape: tuple[int, ...]
) -> tuple[Tensor, ...]:
    """Labels of what was normalized as those of its means, whose shape begins with the dimensions
    before `dims`.
    """
    first = min(dims)
    found = []
    for labels in axes:
        for dim in dims:
            labels = labels.narrow(dim, 0, 1)
        view = (*labels.shape[:first], *[1] * (len(shape) - first))
        found.append(squash(labels.reshape(view).expand(shape)))
    return tuple(found)
