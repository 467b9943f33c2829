"""Reductions and pooling: labels pass where nothing is mixed across channels."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from fxprune.graph.operators import operator_name
from fxprune.rules.contraction import operand_node
from fxprune.rules.labels import Value, squash, varying
from fxprune.rules.registry import Call, register_rule

ADDS = "does not vanish with its weights, and is summed over"


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
    "aten.std_mean",
    "aten.linalg_vector_norm",
    "aten.norm",
    "aten.max",
    "aten.min",
    "aten.any",
    "aten.all",
    "aten.logsumexp",
)
def reduce(call: Call) -> Any:
    """Labels are united along the reduced axes: of channels that are reduced together all stay or
    go. Sums over channels alone lose single ones, which must have added nothing.
    """
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
            if _adds(call) and set() < varying(labels) <= dims:
                node = operand_node(call, source)
                call.record.multiply(node, node, labels, ADDS)
                continue
            labels = call.record.tie(labels, dims)
            for dim in sorted(dims, reverse=True):
                labels = labels.narrow(dim, 0, 1) if keep else labels.select(dim, 0)
            axes.append(squash(labels))
        results.append(replace(out, axes=tuple(a for a in axes if varying(a))))
    return tuple(results) if isinstance(call.out, tuple) else results[0]


def _adds(call: Call) -> bool:
    """Whether zeros change nothing in what is reduced but, of a mean, how many there are."""
    name = operator_name(call.target)
    if name in ("aten.linalg_vector_norm", "aten.norm"):
        order = call.arg(1, "p" if name == "aten.norm" else "ord", 2)
        return order is None or isinstance(order, (int, float)) and order > 0
    return name in ("aten.sum", "aten.mean")


def along(call: Call, source: Value, dims: frozenset[int], reason: str) -> tuple[Tensor, ...]:
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
    "aten.cummax",
    "aten.cummin",
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
    axes = along(call, source, dims, "every channel takes part in a softmax, sum or ordering")
    outs = call.out if isinstance(call.out, tuple) else (call.out,)
    result = []
    for out in outs:
        same = out.shape == source.shape
        result.append(replace(out, axes=axes if same else ()))
        if not same:
            for labels in source.axes:
                call.record.pin(labels, "passes through an ordering or argmax")
    return tuple(result) if isinstance(call.out, tuple) else result[0]


@register_rule("aten.tril", "aten.triu")
def triangle(call: Call) -> Any:
    """What remains depends on the place along the last two axes."""
    source: Value = call.args[0]
    last = frozenset({source.rank - 2, source.rank - 1})
    return replace(call.out, axes=along(call, source, last, "lies in a triangle"))


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
