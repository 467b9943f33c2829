"""Attention: queries meet keys, the values' channels pass, heads go as a whole or stay."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from fxprune.rules.contraction import operand_node
from fxprune.rules.labels import Value, squash, varying
from fxprune.rules.pointwise import meet
from fxprune.rules.products import beside
from fxprune.rules.registry import Call, register_rule

OUT_OF_PLACE = "a channel axis stands where attention has positions or heads"


@register_rule("aten.scaled_dot_product_attention")
def attention(call: Call) -> Any:
    """Queries and keys are contracted with each other; the values' channels pass to the output."""
    query, key, value = call.args[:3]
    mask = call.arg(3, "attn_mask")
    # Labels of heads, each with the operand that carries it.
    heads = [] if mask is None else [(mask, labels) for labels in _mask_heads(call, mask)]
    inner = []
    for operand in (query, key):
        channels, own_heads = _contracted(call, operand, query.shape[query.rank - 3])
        inner.append(channels)
        heads += [(operand, labels) for labels in own_heads]
    _meet_inside(call, inner[0], inner[1])
    axes = _passed(call, value)
    head_dim = {query.rank - 3}
    entire = [a for a in axes if varying(a) <= head_dim]
    if not call.record.heads([a for _, a in heads] + entire):
        return replace(call.out, axes=tuple(a for a in axes if not varying(a) <= head_dim))
    # Queries, keys, values and what is added to the scores lose the same heads.
    shape = call.out.shape
    operands = [
        replace(
            operand,
            shape=beside(operand, shape),
            axes=tuple(_broadcast(a, shape) for o, a in heads if o is operand),
        )
        for operand in (query, key, mask)
        if operand is not None
    ]
    passed = replace(value, shape=beside(value, shape), axes=tuple(axes))
    return replace(call.out, axes=meet(call, [*operands, passed], shape))


def _mask_heads(call: Call, mask: Value) -> list[Tensor]:
    """Labels of entire heads on what is added to the scores; others are pinned."""
    heads = []
    for labels in mask.axes:
        if varying(labels) == {mask.rank - 3}:
            heads.append(labels)
        else:
            call.record.pin(labels, "added to attention scores")
    return heads


def _contracted(call: Call, operand: Value, count: int) -> tuple[Tensor | None, list[Tensor]]:
    """Labels along the channels of queries or keys, and those of entire heads where there are
    `count` of them; others are pinned.
    """
    last = operand.rank - 1
    channels: Tensor | None = None
    heads, rest = [], []
    for labels in operand.axes:
        if last in varying(labels):
            if channels is None:
                channels = call.record.tie(labels, frozenset({last - 1}))
        elif varying(labels) == {last - 2} and operand.shape[last - 2] == count:
            heads.append(labels)
        else:
            rest.append(labels)
    for labels in rest:
        call.record.pin(labels, OUT_OF_PLACE)
    return (None if channels is None else channels.narrow(last - 1, 0, 1)), heads


def _meet_inside(call: Call, read: Tensor | None, kept: Tensor | None) -> None:
    """Channels of queries and keys live or die together; where only one side has labels, they
    stay.
    """
    if read is not None and kept is not None:
        call.record.pair(read, _repeated(kept, read.shape[-3]))
        query, key = (operand_node(call, operand) for operand in call.args[:2])
        call.record.multiply(query, key, read)
        return
    for labels in (read, kept):
        if labels is not None:
            call.record.pin(labels, "contracted with a tensor that is not a weight")


def _passed(call: Call, value: Value) -> list[Tensor]:
    """Labels of the values as those of the result."""
    positions = value.rank - 2
    axes = []
    for labels in value.axes:
        if positions in varying(labels):
            call.record.pin(labels, OUT_OF_PLACE)
            continue
        labels = _repeated(labels.narrow(positions, 0, 1), call.out.shape[-3])
        axes.append(squash(labels.expand(call.out.shape)))
    return axes


def _repeated(labels: Tensor, heads: int) -> Tensor:
    """Labels of this many heads, where each group of query heads shares one of keys and values."""
    if labels.shape[-3] == heads:
        return labels
    return labels.repeat_interleave(heads // labels.shape[-3], -3)


def _broadcast(labels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Head labels as those of the result."""
    return squash(labels.narrow(-1, 0, 1).narrow(-2, 0, 1).expand(shape))
