"""Einsum: named axes meet by their letters."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from fxprune.rules.labels import Value, squash, varying
from fxprune.rules.registry import Call, register_rule


@register_rule("aten.einsum")
def einsum(call: Call) -> Any:
    """Named axes: a letter missing from the result is contracted, every other passes."""
    equation, operands = call.args[0].replace(" ", ""), call.args[1]
    if "." in equation or "->" not in equation or len(operands) != 2:
        raise NotImplementedError
    inputs, output = equation.split("->")
    terms = inputs.split(",")
    letters = sorted(set(inputs) - {","})
    sizes = {
        n: s
        for term, v in zip(terms, operands, strict=True)
        for n, s in zip(term, v.shape, strict=True)
    }
    lost = frozenset(i for i, n in enumerate(letters) if n not in output)
    passed: list[Tensor] = []
    inner: list[list[Tensor]] = []
    for term, value in zip(terms, operands, strict=True):
        spread = _spread(value, term, {n: sizes[n] for n in letters})
        inner.append([a for a in spread if varying(a) & lost])
        passed += [a for a in spread if not varying(a) & lost]
    _contract(call, inner[0], inner[1])
    # Axes that both operands carry and that survive meet elementwise.
    for i, first in enumerate(passed):
        for second in passed[i + 1 :]:
            if varying(first) & varying(second):
                call.record.unite(first, second)
    result = [_without(labels, lost, letters, output) for labels in passed]
    return replace(call.out, axes=_one_per_dimension(result))


def _spread(value: Value, term: str, sizes: dict[str, int]) -> list[Tensor]:
    """An operand's label tensors over all letters of the equation, in the order of `sizes`."""
    order = sorted(range(len(term)), key=lambda i: term[i])
    view = [size if letter in term else 1 for letter, size in sizes.items()]
    full = list(sizes.values())
    return [squash(labels.permute(order).reshape(view)).expand(full) for labels in value.axes]


def _contract(call: Call, left: list[Tensor], right: list[Tensor]) -> None:
    """Unite the label tensors that change along contracted letters; pin them where they do not
    pair.
    """
    record = call.record
    if len(left) == 1 == len(right) and varying(left[0]) == varying(right[0]):
        record.pair(left[0], right[0])
        record.block_structure(squash(left[0]))
        factors: Any = call.node.args[1]
        record.multiply(factors[0], factors[1], left[0])
        return
    for labels in left + right:
        record.pin(labels, "contracted with a tensor that is not a weight")


def _without(labels: Tensor, lost: frozenset[int], letters: list[str], output: str) -> Tensor:
    """A label tensor over the letters of the result, in its order."""
    for dim in sorted(lost, reverse=True):
        labels = labels.select(dim, 0)
    rest = [letter for letter in letters if letter in output]
    return squash(labels.permute([rest.index(letter) for letter in output]))


def _one_per_dimension(axes: list[Tensor]) -> tuple[Tensor, ...]:
    """Without those that change along a dimension that an earlier one has."""
    seen: set[int] = set()
    first = []
    for labels in axes:
        if not varying(labels) & seen:
            seen |= varying(labels)
            first.append(labels)
    return tuple(first)
