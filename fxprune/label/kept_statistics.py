"""Statistics over channels stay those of the original, in which removed channels are zeros.

With d channels of which k are left, a mean over k is d / k times that over d, and

    x / sqrt(mean_d(x^2) + eps) = sqrt(d / k) x / sqrt(mean_k(x^2) + eps d / k),

so that an RMS norm stays one. A layer norm and a group norm also subtract a mean, from the zeros
too: they are called on the channels with zeros behind them, which are cut off again. So is an RMS
norm whose eps is not a number.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule, Node

from fxprune.graph.nodes import argument, where
from fxprune.graph.operators import operator_name
from fxprune.label.arguments import Rewriter
from fxprune.label.groups import Analysis
from fxprune.rules.labels import Value

aten = torch.ops.aten
KEPT = "divide by the number of all channels of the original, removed ones being zeros"
"""What the report says of such calls."""


@dataclass(frozen=True)
class Inner:
    """A call whose result is an argument of another."""

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


def rewritten(rewriter: Rewriter, node: Node) -> Inner:
    """What stands for a call once the channels are gone; calls that it needs are among its
    arguments.

    Its arguments are nodes of the original graph, and it returns what the original call does where
    removed channels are zeros.
    """
    target, args, kwargs = rewriter.arguments(node)
    small = Inner(target, args, kwargs)
    keep = KEEP.get(operator_name(node.target))
    if keep is None or rewriter.shape(node.args[0]) == rewriter.value(node.args[0]).shape:
        return small
    return keep(rewriter, node, small)


def calls_that_keep_statistics(
    module: GraphModule, analysis: Analysis, keep_mask: np.ndarray
) -> list[str]:
    """Calls whose statistics count removed channels, for people.

    Args:
        module: the captured graph.
        analysis: of that graph.
        keep_mask: (channels + 1,) bool.
    """
    rewriter = Rewriter(analysis, keep_mask)
    return [
        where(node)
        for node in module.graph.nodes
        if operator_name(node.target) in KEEP
        and rewritten(rewriter, node) != Inner(*rewriter.arguments(node))
    ]


def _mean(rewriter: Rewriter, node: Node, small: Inner) -> Inner:
    """Of as many elements as there were."""
    source, result = rewriter.value(node.args[0]), rewriter.value(node)
    left = math.prod(rewriter.shape(node.args[0])) / math.prod(rewriter.shape(node))
    full = math.prod(source.shape) / math.prod(result.shape)
    return small if left == full else Inner(aten.mul.Tensor, (small, left / full))


def _rms_norm(rewriter: Rewriter, node: Node, small: Inner) -> Inner:
    """The same norm of fewer channels, with another eps and a scale."""
    more = math.prod(node.args[1]) / math.prod(small.args[1])  # type: ignore[arg-type]
    if more == 1:
        return small
    weight, eps = argument(node, 2), argument(node, 3)
    if eps is None:  # one of the type that the model will have
        return _over_zeros(rewriter, node, small, (weight,))
    if weight is None:
        norm = Inner(small.target, (*small.args[:2], None, eps * more))
        return Inner(aten.mul.Tensor, (norm, math.sqrt(more)))
    # A vector is scaled, not what is normalized: the layer costs what it did.
    weight = Inner(aten.mul.Tensor, (weight, math.sqrt(more)))
    return Inner(small.target, (*small.args[:2], weight, eps * more))


def _layer_norm(rewriter: Rewriter, node: Node, small: Inner) -> Inner:
    """Over zeros behind what is left of each normalized axis."""
    return _over_zeros(rewriter, node, small, (argument(node, 2), argument(node, 3)))


def _over_zeros(rewriter: Rewriter, node: Node, small: Inner, vectors: tuple[Any, ...]) -> Inner:
    """A norm of the original shape, by the vectors that follow it among the arguments, with zeros
    behind what is left.
    """
    full, left = list(node.args[1]), list(small.args[1])  # type: ignore[arg-type]
    missing = [a - b for a, b in zip(full, left, strict=True)]
    if not any(missing):
        return small
    padding = [amount for size in reversed(missing) for amount in (0, size)]
    source, *padded = (_padded(item, padding) for item in (small.args[0], *vectors))
    rest = small.args[2 + len(vectors) :]
    result = Inner(small.target, (source, full, *padded, *rest))
    rank = rewriter.value(node).rank
    for dim, size in enumerate(left, rank - len(left)):
        if missing[dim - rank + len(left)]:
            result = Inner(aten.slice.Tensor, (result, dim, 0, size))
    return result


def _group_norm(rewriter: Rewriter, node: Node, small: Inner) -> Inner:
    """Over zeros behind what is left of each group."""
    source: Value = rewriter.value(node.args[0])
    groups, channels = argument(node, 1), source.shape[1]
    left = rewriter.shape(node.args[0])[1] // groups
    if groups == channels or left * groups == channels:
        return small
    more = channels // groups - left

    def widened(item: Any, dim: int, rank: int) -> Any:
        if item is None:
            return None
        apart = Inner(aten.unflatten.int, (item, dim, [groups, left]))
        padded = _padded(apart, [0, 0] * (rank - dim - 1) + [0, more])
        return Inner(aten.flatten.using_ints, (padded, dim, dim + 1))

    vectors = (widened(argument(node, place), 0, 1) for place in (2, 3))
    result = Inner(
        small.target, (widened(node.args[0], 1, source.rank), groups, *vectors, *small.args[4:])
    )
    apart = Inner(aten.unflatten.int, (result, 1, [groups, left + more]))
    cut = Inner(aten.slice.Tensor, (apart, 2, 0, left))
    return Inner(aten.flatten.using_ints, (cut, 1, 2))


def _padded(item: Any, padding: list[int]) -> Any:
    """Zeros behind the last dimensions, as `torch.nn.functional.pad` counts them."""
    return None if item is None else Inner(aten.constant_pad_nd.default, (item, padding))


KEEP: dict[str, Callable[[Rewriter, Node, Inner], Inner]] = {
    "aten.mean": _mean,
    "aten.rms_norm": _rms_norm,
    "aten.layer_norm": _layer_norm,
    "aten.group_norm": _group_norm,
}
"""By the original operator's name."""
