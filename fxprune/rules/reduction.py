"""Reductions, pooling and normalization: labels pass where nothing is mixed across channels."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from fxprune.rules.labels import Value, squash, varying
from fxprune.rules.registry import Call, register_rule


def _dims(call: Call, index: int, name: str) -> frozenset[int]:
    rank = call.args[0].rank
    dims = call.arg(index, name)
    if dims is None or dims == []:
        return frozenset(range(rank))
    if isinstance(dims, int):
        dims = [dims]
    return frozenset(d % rank for d in dims)


@register_rule(
    "aten.mean",
    "aten.sum",
    "aten.amax",
    "aten.amin",
    "aten.var",
    "aten.std",
    "aten.prod",
    "aten.var_mean",
    "aten.linalg_vector_norm",
    "aten.norm",
    "aten.max",
    "aten.min",
    "aten.any",
    "aten.all",
    "aten.logsumexp",
)
def reduce(call: Call) -> Any:
    """Channels summed together must go together: labels are united along the reduced axes."""
    operator = str(call.target)
    outs = call.out if isinstance(call.out, tuple) else (call.out,)
    source: Value = call.args[0]
    if "max.other" in operator or "min.other" in operator or len(call.values()) > 1:
        raise NotImplementedError
    vector_norm = "vector_norm" in operator or "aten.norm" in operator
    full = "aten.max.default" in operator or "aten.min.default" in operator
    dims = frozenset(range(source.rank)) if full else _dims(call, 2 if vector_norm else 1, "dim")
    results = []
    for out in outs:
        keep = out.rank == source.rank
        axes = []
        for labels in source.axes:
            labels = call.record.tie(labels, dims)
            for dim in sorted(dims, reverse=True):
                labels = labels.narrow(dim, 0, 1) if keep else labels.select(dim, 0)
            axes.append(squash(labels))
        results.append(replace(out, axes=tuple(a for a in axes if varying(a))))
    return tuple(results) if isinstance(call.out, tuple) else results[0]


def _along(call: Call, source: Value, dims: frozenset[int], reason: str) -> tuple[Tensor, ...]:
    """Labels after mixing along `dims`: what changes only there is pinned, what changes elsewhere
    too is tied along them.
    """
    kept = []
    for labels in source.axes:
        if varying(labels) <= dims:
            call.record.pin(labels, reason)
        else:
            kept.append(call.record.tie(labels, dims))
    return tuple(kept)


@register_rule(
    "aten.softmax",
    "aten._softmax",
    "aten.log_softmax",
    "aten.cumsum",
    "aten.logcumsumexp",
    "aten.glu_backward",
    "aten.cumprod",
    "aten.argmax",
    "aten.argmin",
    "aten.sort",
    "aten.topk",
)
def along_axis(call: Call) -> Any:
    """Operators that mix along one axis: channels there stay."""
    name = str(call.target)
    dims = _dims(call, 2 if "topk" in name else 1, "dim")
    source: Value = call.args[0]
    axes = _along(call, source, dims, "every channel takes part in a softmax, sum or ordering")
    outs = call.out if isinstance(call.out, tuple) else (call.out,)
    result = []
    for out in outs:
        same = out.shape == source.shape
        result.append(replace(out, axes=axes if same else ()))
        if not same:
            for labels in source.axes:
                call.record.pin(labels, "passes through an ordering or argmax")
    return tuple(result) if isinstance(call.out, tuple) else result[0]


POOLING = [
    f"aten.{kind}{rank}d"
    for kind in (
        "max_pool",
        "avg_pool",
        "adaptive_avg_pool",
        "adaptive_max_pool",
        "_adaptive_avg_pool",
        "lp_pool",
    )
    for rank in (1, 2, 3)
] + [
    "aten.max_pool2d_with_indices",
    "aten.max_pool3d_with_indices",
    "aten.upsample_nearest1d",
    "aten.upsample_nearest2d",
    "aten.upsample_nearest3d",
    "aten._upsample_nearest_exact2d",
    "aten.upsample_linear1d",
    "aten.upsample_bilinear2d",
    "aten.upsample_trilinear3d",
    "aten.upsample_bicubic2d",
    "aten._upsample_bilinear2d_aa",
    "aten._upsample_bicubic2d_aa",
    "aten.grid_sampler",
    "aten.grid_sampler_2d",
]


@register_rule(*POOLING)
def pool(call: Call) -> Any:
    """Pooling and resampling work within a channel; labels lie on the axes before the spatial
    ones.
    """
    source: Value = call.args[0]
    outs = call.out if isinstance(call.out, tuple) else (call.out,)
    name = str(call.target)
    for other in call.values()[1:]:
        call.record.pin_value(other, "says where to sample")
    spatial = 3 if "3d" in name else 1 if "1d" in name else 2
    dims = frozenset(range(source.rank - spatial, source.rank))
    axes = []
    for labels in source.axes:
        labels = call.record.tie(labels, dims)
        for dim in dims:
            labels = labels.narrow(dim, 0, 1)
        axes.append(labels)
    result = tuple(replace(out, axes=tuple(a.expand(out.shape) for a in axes)) for out in outs)
    return result if isinstance(call.out, tuple) else result[0]


@register_rule("aten.batch_norm", "aten._native_batch_norm_legit_no_training", "aten.instance_norm")
def batch_norm(call: Call) -> Any:
    """Per channel: the four vectors are united with the channels they act on."""
    source: Value = call.args[0]
    outs = call.out if isinstance(call.out, tuple) else (call.out,)
    axes = []
    along = [a for a in source.axes if 1 in varying(a)]
    for labels in source.axes:
        if 1 not in varying(labels):
            call.record.pin(labels, "normalized over its channels")
    vectors = [v for v in call.args[1:5] if isinstance(v, Value)]
    if along:
        labels = call.record.tie(along[0], varying(along[0]) - {1})
        channel = labels.movedim(1, 0).reshape(labels.shape[1], -1)[:, 0]
        for value in vectors:
            for own in value.axes:
                call.record.unite(own, channel)
        axes.append(labels)
    else:
        for value in vectors:
            call.record.pin_value(value, "normalizes the model's input")
    first = replace(outs[0], axes=tuple(axes))
    return (first, *outs[1:]) if isinstance(call.out, tuple) else first


@register_rule("aten.group_norm", "aten.native_group_norm")
def group_norm(call: Call) -> Any:
    """Statistics are shared inside each group: exact only when each channel is its own group."""
    source: Value = call.args[0]
    groups = call.args[1]
    if isinstance(call.out, Value) and groups == source.shape[1]:
        vectors = [v for v in call.args[2:4] if isinstance(v, Value)]
        return batch_norm(replace(call, args=(source, *vectors)))
    return _pinned_norm(call, frozenset(range(1, source.rank)))


@register_rule("aten.layer_norm", "aten.native_layer_norm", "aten.rms_norm", "aten._fused_rms_norm")
def layer_norm(call: Call) -> Any:
    """Mixes the normalized axes: channels there stay."""
    source: Value = call.args[0]
    shape = call.args[1]
    return _pinned_norm(call, frozenset(range(source.rank - len(shape), source.rank)))


def _pinned_norm(call: Call, dims: frozenset[int]) -> Any:
    source: Value = call.args[0]
    outs = call.out if isinstance(call.out, tuple) else (call.out,)
    kept = _along(call, source, dims, "normalized across channels")
    for value in call.values()[1:]:
        call.record.pin_value(value, "normalized across channels")
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
