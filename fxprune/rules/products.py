"""Products of two tensors of any kind: matrix products, attention, einsum."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from fxprune.rules.contraction import consume
from fxprune.rules.labels import Value, squash, varying, vector
from fxprune.rules.pointwise import meet
from fxprune.rules.registry import Call, register_rule


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
            weight_right = (
                record.owner(kept) is not None
                and right.parameter is None
                or right.parameter is not None
            )
            flat_read, flat_kept = vector(read, rank - 1), vector(kept, rank - 1)
            if weight_right or left.parameter is None:
                consume(call, left, left.rank - 1, flat_read, right, flat_kept)
            else:
                consume(call, right, right.rank - 2, flat_kept, left, flat_read)
        else:
            record.unite(read, kept)
            record.block_structure(squash(read))
    else:
        for labels in inner[0] + inner[1]:
            record.pin(labels, "contracted with a tensor that is not a weight")
    axes = tuple(a for side in passed for a in side if varying(a))
    sides = [
        replace(call.out, shape=_within(v, shape), axes=tuple(p))
        for v, p in zip((left, right), passed, strict=True)
    ]
    shared = {d for d in range(row) if all(side.shape[d] > 1 for side in sides)}
    heads = [a for a in axes if varying(a) <= shared]
    if not record.heads(heads):
        return tuple(a for a in axes if not varying(a) <= shared)
    # What both operands carry along a batch dimension meets elementwise.
    return meet(call, sides, shape)


def _within(value: Value, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of an operand beside the result of a product: its matrix dimensions broadcast, its
    batch dimensions stand.
    """
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
        replace(
            v,
            shape=_within(v, call.out.shape),
            axes=tuple(_spread(a, call.out.shape) for o, a in heads if o is v),
        )
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
    sizes = {
        n: s
        for term, v in zip(names, operands, strict=True)
        for n, s in zip(term, v.shape, strict=True)
    }
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
        record.block_structure(squash(inner[0][0]))
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
