"""New operators and shape arguments of calls when channels go: one function per family of
operators whose arguments hold sizes or positions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from fxprune.graph.convolution import CONVOLUTIONS, GENERAL, TRANSPOSED, convolution_of
from fxprune.graph.nodes import argument
from fxprune.graph.operators import operator_name
from fxprune.label.groups import Analysis
from fxprune.label.survivors import kept_before, shrink
from fxprune.rules.labels import Value, varying
from fxprune.rules.sources import FILLS

aten = torch.ops.aten


@dataclass(frozen=True)
class Rewriter:
    """New operator and arguments of every call, given the surviving channels.

    Attributes:
        analysis: of the original graph.
        keep_mask: (channels + 1,) bool, True at 0.
    """

    analysis: Analysis
    keep_mask: np.ndarray

    @cached_property
    def block_of(self) -> np.ndarray:
        """The block of every channel."""
        return self.analysis.block_of()

    def value(self, item: Any) -> Any:
        """A node's value in the original graph."""
        return self.analysis.values[item.name] if isinstance(item, Node) else item

    def shape(self, item: Any) -> tuple[int, ...]:
        """A node's shape once the channels are gone."""
        small: Value = self.shrink(self.value(item))
        return small.shape

    def shrink(self, value: Any) -> Any:
        """A value with its shape once the channels are gone, and no labels."""
        return shrink(value, self.keep_mask, self.block_of)

    def position(self, value: Value, dim: int, index: int) -> int:
        """Where an index along a dimension lands, counted from its end where negative."""
        size = value.shape[dim]
        index = index + size if index < 0 else min(index, size)
        return kept_before(value, dim, index, self.keep_mask, self.block_of)

    def arguments(self, node: Node) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Operator, positional and keyword arguments for the shrunken tensors."""
        change = CHANGES.get(operator_name(node.target))
        args, kwargs = list(node.args), dict(node.kwargs)
        if change is None or not self.touched(node):
            return node.target, node.args, kwargs
        target = change(self, node, args, kwargs)
        return target or node.target, tuple(args), kwargs

    def touched(self, node: Node) -> bool:
        """Whether a call reads or makes channels of a group."""
        values = [self.value(a) for a in node.all_input_nodes] + [self.value(node)]
        flat = [v for value in values for v in (value if isinstance(value, tuple) else (value,))]
        return any(isinstance(v, Value) and v.axes for v in flat)


Change = Callable[[Rewriter, Node, list[Any], dict[str, Any]], Any]
"""Changes a call's arguments, positional and by keyword, in place; returns the operator to call
instead, or None.
"""
CHANGES: dict[str, Change] = {}
"""By the operator's name."""


def _changes(*operators: str) -> Callable[[Change], Change]:
    def add(change: Change) -> Change:
        CHANGES.update(dict.fromkeys(operators, change))
        return change

    return add


@_changes(
    "aten.view",
    "aten.reshape",
    "aten._unsafe_view",
    "aten.expand",
    "aten.broadcast_to",
    "aten.unflatten",
    *FILLS,
)
def _shape(rewriter: Rewriter, node: Node, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Sizes of the result; -1 stays."""
    old, new = rewriter.value(node).shape, rewriter.shape(node)
    name = operator_name(node.target)
    place, start = FILLS.get(name, 1), 0
    if name == "aten.unflatten":
        place, start = 2, args[1] % rewriter.value(args[0]).rank
    wanted = list(args[place])
    for dim, size in enumerate(wanted, start):
        if isinstance(size, int) and size != -1 and old[dim] != new[dim]:
            wanted[dim - start] = new[dim]
    args[place] = wanted


@_changes("aten.split", "aten.split_with_sizes", "aten.chunk", "aten.tensor_split")
def _split(rewriter: Rewriter, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Sizes of the parts, which need not be equal any more."""
    dim = argument(node, 2, kwargs.get("dim", 0)) % rewriter.value(args[0]).rank
    parts = rewriter.value(node)
    new = [rewriter.shape(part)[dim] for part in parts]
    if new == [part.shape[dim] for part in parts]:
        return None
    kwargs.clear()
    args[:] = [args[0], new, dim]
    return aten.split_with_sizes.default


@_changes("aten.slice")
def _slice(rewriter: Rewriter, node: Node, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Start and end."""
    source = rewriter.value(args[0])
    dim = argument(node, 1, 0) % source.rank
    if not any(dim in varying(a) for a in source.axes):
        return
    for place in (2, 3):
        if isinstance(argument(node, place), int):
            args[place] = rewriter.position(source, dim, args[place])


@_changes("aten.narrow")
def _narrow(rewriter: Rewriter, node: Node, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Start and length."""
    source, dim, start, length = rewriter.value(args[0]), *args[1:]
    dim %= source.rank
    given = isinstance(start, int) and isinstance(length, int)
    if given and any(dim in varying(a) for a in source.axes):
        start = start + source.shape[dim] if start < 0 else start
        args[2] = rewriter.position(source, dim, start)
        args[3] = rewriter.position(source, dim, start + length) - args[2]


@_changes("aten.slice_scatter")
def _scatter(rewriter: Rewriter, node: Node, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Start and end of the part that is replaced."""
    source = rewriter.value(args[0])
    dim = argument(node, 2, 0) % source.rank
    if not any(dim in varying(a) for a in source.axes):
        return
    for place in (3, 4):
        if isinstance(argument(node, place), int):
            args[place] = rewriter.position(source, dim, args[place])


@_changes("aten.select")
def _select(rewriter: Rewriter, node: Node, args: list[Any], kwargs: dict[str, Any]) -> None:
    """The index."""
    source = rewriter.value(args[0])
    dim = args[1] % source.rank
    if isinstance(args[2], int) and any(dim in varying(a) for a in source.axes):
        args[2] = rewriter.position(source, dim, args[2])


@_changes("aten.pad", "aten.constant_pad_nd")
def _pad(rewriter: Rewriter, node: Node, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Padding along a channel axis, whose channels go like others."""
    source, out = rewriter.value(args[0]), rewriter.value(node)
    amounts = list(args[1])
    for index in range(len(amounts) // 2):
        dim, before = source.rank - 1 - index, amounts[2 * index]
        if not any(dim in varying(a) for a in out.axes) or not isinstance(before, int):
            continue
        inside = rewriter.position(out, dim, before + source.shape[dim])
        amounts[2 * index] = rewriter.position(out, dim, before)
        amounts[2 * index + 1] = rewriter.position(out, dim, out.shape[dim]) - inside
    args[1] = amounts


@_changes(*CONVOLUTIONS, *TRANSPOSED, GENERAL)
def _convolution(rewriter: Rewriter, node: Node, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Groups of a depthwise convolution, of which there are as many as channels."""
    convolution, source = convolution_of(node), rewriter.value(args[0])
    if convolution is None or convolution.groups == 1:
        return
    channel = convolution.channel(source.rank)
    if source.shape[channel] != convolution.groups:
        return
    left = rewriter.shape(args[0])[channel]
    if convolution.groups_at < len(args):
        args[convolution.groups_at] = left
    else:
        kwargs["groups"] = left


@_changes("aten.scaled_dot_product_attention")
def _attention(rewriter: Rewriter, node: Node, args: list[Any], kwargs: dict[str, Any]) -> None:
    """The scale that would follow from the number of channels stays the original's."""
    channels = rewriter.value(args[0]).shape[-1]
    if kwargs.get("scale") is None and rewriter.shape(args[0])[-1] != channels:
        kwargs["scale"] = channels**-0.5


@_changes("aten.group_norm")
def _group_norm(rewriter: Rewriter, node: Node, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Groups of one channel each, of which there are as many as channels."""
    if args[1] == rewriter.value(args[0]).shape[1]:
        args[1] = rewriter.shape(args[0])[1]


@_changes("aten.layer_norm", "aten.rms_norm")
def _layer_norm(rewriter: Rewriter, node: Node, args: list[Any], kwargs: dict[str, Any]) -> None:
    """The normalized shape."""
    args[1] = list(rewriter.shape(args[0])[-len(args[1]) :])


@_changes("aten.repeat_interleave")
def _repeat(rewriter: Rewriter, node: Node, args: list[Any], kwargs: dict[str, Any]) -> None:
    """The size of the result, which torch computes where it is not given."""
    kwargs.pop("output_size", None)
