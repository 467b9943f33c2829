"""Products of two matrices of any kind."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from fxprune.graph.nodes import reads_input
from fxprune.rules.contraction import consume, operand_node
from fxprune.rules.labels import Value, squash, varying, vector
from fxprune.rules.pointwise import meet
from fxprune.rules.registry import Call, register_rule

MEASURED = "does not vanish with its weights, and a distance is taken along it"


@register_rule("aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.dot")
def matmul(call: Call) -> Any:
    """(..., M, K) @ (..., K, N) with broadcasting batch dimensions."""
    return replace(call.out, axes=_matmul(call, call.args[0], call.args[1], call.out.shape))


@register_rule("aten.addmm", "aten.baddbmm")
def addmm(call: Call) -> Any:
    """input + a @ b."""
    out = replace(call.out, axes=_matmul(call, call.args[1], call.args[2], call.out.shape))
    return replace(out, axes=meet(call, [out, call.args[0]], out.shape))


@register_rule("aten._cdist_forward", "aten._euclidean_dist")
def distances(call: Call) -> Any:
    """Between the rows of two matrices: a channel that is zero in both adds nothing."""
    left, right = call.args[0], call.args[1]
    last = left.rank - 1
    alike = [[a for a in v.axes if varying(a) == {v.rank - 1}] for v in (left, right)]
    power = call.arg(2, "p", 2.0)
    for value, found in ((left, alike[0]), (right, alike[1])):
        for labels in value.axes:
            if all(labels is not a for a in found) or not all(alike) or not power > 0:
                call.record.pin(labels, "a distance is taken along it")
    if all(alike) and power > 0:
        read, kept = vector(alike[0][0], last), vector(alike[1][0], right.rank - 1)
        call.record.unite(read, kept)
        for value, labels in ((left, read), (right, kept)):
            node = operand_node(call, value)
            call.record.multiply(node, node, labels, MEASURED)
    return call.out


def _matmul(call: Call, left: Value, right: Value, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    record = call.record
    if not left.shape[-1]:
        raise NotImplementedError
    if left.rank < 2 or right.rank < 2:
        for value in (left, right):
            record.pin_value(value, "product with a vector")
        return ()
    row, column = len(shape) - 2, len(shape) - 1
    read, passed_left = _sides(call, left, shape, contracted=column, free=row)
    kept, passed_right = _sides(call, right, shape, contracted=row, free=column)
    if len(read) == 1 == len(kept):
        _contract(call, left, right, read[0], kept[0])
    else:
        for labels in read + kept:
            record.pin(labels, "contracted with a tensor that is not a weight")
    axes = tuple(a for a in (*passed_left, *passed_right) if varying(a))
    operands = [
        replace(call.out, shape=beside(value, shape), axes=tuple(passed))
        for value, passed in ((left, passed_left), (right, passed_right))
    ]
    shared = {d for d in range(row) if all(operand.shape[d] > 1 for operand in operands)}
    if not record.heads([a for a in axes if varying(a) <= shared]):
        return tuple(a for a in axes if not varying(a) <= shared)
    # What both operands carry along a batch dimension meets elementwise.
    return meet(call, operands, shape)


def _sides(
    call: Call, value: Value, shape: tuple[int, ...], contracted: int, free: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Label tensors of an operand that are contracted, with that dimension last, and those that
    pass to the result of this shape.
    """
    rank = len(shape)
    inner, passed = [], []
    for labels in value.axes:
        if rank > value.rank:
            labels = labels.view(*[1] * (rank - value.rank), *labels.shape)
        if contracted not in varying(labels):
            passed.append(squash(labels.narrow(contracted, 0, 1).expand(shape)))
        else:
            labels = call.record.tie(labels, frozenset({free}))
            inner.append(labels.movedim(contracted, -1).narrow(-2, 0, 1))
    return inner, passed


def _contract(call: Call, left: Value, right: Value, read: Tensor, kept: Tensor) -> None:
    """Unite what the two operands are contracted along; the one that is a weight consumes."""
    record, last = call.record, read.dim() - 1
    if not (varying(squash(kept)) <= {last} and varying(squash(read)) <= {last}):
        record.pair(read, kept)
        record.block_structure(squash(read))
        record.multiply(operand_node(call, left), operand_node(call, right), read)
        return
    flat_read, flat_kept = vector(read, last), vector(kept, last)
    if reads_input(operand_node(call, right)) and not reads_input(operand_node(call, left)):
        consume(call, right, right.rank - 2, flat_kept, left, flat_read)
    else:
        consume(call, left, left.rank - 1, flat_read, right, flat_kept)


def beside(value: Value, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of an operand beside the result of a product: its matrix dimensions broadcast, its
    batch dimensions stand.
    """
    batch = value.shape[:-2]
    return (*[1] * (len(shape) - 2 - len(batch)), *batch, 1, 1)
