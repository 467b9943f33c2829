"""Elementwise operators: operands that meet are united."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from fxprune.rules.labels import Value, squash, varying
from fxprune.rules.registry import Call, register_rule


def aligned(labels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A label tensor broadcast to the shape of the result."""
    return labels.expand(shape)


def meet(call: Call, operands: list[Value], shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Unite label tensors of operands that broadcast against each other to `shape`.

    Label tensors that change along a common dimension meet there; an operand that has such a dimension in full but no
    label on it cannot be shortened, so its partners are pinned.
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
        # The member that changes along every dimension of the cluster describes the result.
        result.append(max(members, key=lambda m: len(varying(m))))
    return tuple(result)


def pointwise(call: Call) -> Any:
    """Residual additions, gates, activations, layer scale, BatchNorm's vectors: everything elementwise."""
    if not isinstance(call.out, Value):
        raise NotImplementedError
    axes = meet(call, call.values(), call.out.shape)
    return replace(call.out, axes=tuple(squash(a) for a in axes))


IDENTITY = (
    "aten.clone aten.contiguous aten.dropout aten.feature_dropout aten.alpha_dropout aten.detach aten.alias "
    "aten._to_copy aten.to aten.type_as aten.lift_fresh_copy aten.lift_fresh aten.masked_fill aten.where aten.float "
    "aten.zeros_like aten.ones_like aten.full_like aten._assert_tensor_metadata aten.rand_like aten.bernoulli aten.copy"
).split()
register_rule(*IDENTITY)(pointwise)
