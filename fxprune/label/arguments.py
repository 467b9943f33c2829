"""New operators and shape arguments of calls when channels go."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from fxprune.graph.operators import operator_name
from fxprune.label.groups import Analysis
from fxprune.label.survivors import kept_before, shrunk
from fxprune.rules.labels import Value, varying

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

    def value(self, item: Any) -> Any:
        """A node's value in the original graph."""
        return self.analysis.values[item.name] if isinstance(item, Node) else item

    def arguments(self, node: Node) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Operator, positional and keyword arguments for the shrunken tensors."""
        name = operator_name(node.target).removeprefix("aten.")
        change = getattr(self, f"_{FAMILIES.get(name, '')}", None)
        kwargs = dict(node.kwargs)
        if change is None or not self.touched(node):
            return node.target, node.args, kwargs
        target, args = change(node, list(node.args), kwargs)
        return target, tuple(args), kwargs

    def touched(self, node: Node) -> bool:
        """Whether a call reads or makes channels of a group."""
        values = [self.value(a) for a in node.all_input_nodes] + [self.value(node)]
        flat = [v for value in values for v in (value if isinstance(value, tuple) else (value,))]
        return any(isinstance(v, Value) and v.axes for v in flat)

    def _shape(self, node: Node, args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, list[Any]]:
        old, new = self.value(node).shape, shrunk(self.value(node), self.keep_mask).shape
        place = 2 if operator_name(node.target) == "aten.unflatten" else 1
        wanted = list(args[place])
        start = args[1] % self.value(node.args[0]).rank if place == 2 else 0
        for i, size in enumerate(wanted):
            at = start + i
            if isinstance(size, int) and size not in (-1,) and old[at] != new[at]:
                wanted[i] = new[at]
        args[place] = wanted
        return node.target, args

    def _split(self, node: Node, args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, list[Any]]:
        source = self.value(args[0])
        dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % source.rank
        old = [v.shape[dim] for v in self.value(node)]
        new = [shrunk(v, self.keep_mask).shape[dim] for v in self.value(node)]
        if old == new:
            return node.target, args
        kwargs.clear()
        return aten.split_with_sizes.default, [args[0], new, dim]

    def _slice(self, node: Node, args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, list[Any]]:
        source = self.value(args[0])
        dim = (args[1] if len(args) > 1 else 0) % source.rank
        if not any(dim in varying(a) for a in source.axes):
            return node.target, args
        narrow = operator_name(node.target) == "aten.narrow"
        for place in (2, 3):
            if place >= len(args) or not isinstance(args[place], int):
                continue
            position = args[place] + (node.args[2] if narrow and place == 3 else 0)
            position = (
                position + source.shape[dim] if position < 0 else min(position, source.shape[dim])
            )
            args[place] = kept_before(source, dim, position, self.keep_mask)
        if narrow:
            args[3] -= args[2]
        return node.target, args

    def _scatter(
        self, node: Node, args: list[Any], kwargs: dict[str, Any]
    ) -> tuple[Any, list[Any]]:
        source = self.value(args[0])
        dim = (args[2] if len(args) > 2 else 0) % source.rank
        for place in (3, 4):
            if place < len(args) and isinstance(args[place], int):
                position = (
                    args[place] + source.shape[dim]
                    if args[place] < 0
                    else min(args[place], source.shape[dim])
                )
                args[place] = kept_before(source, dim, position, self.keep_mask)
        return node.target, args

    def _select(self, node: Node, args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, list[Any]]:
        source = self.value(args[0])
        dim = args[1] % source.rank
        if isinstance(args[2], int) and any(dim in varying(a) for a in source.axes):
            args[2] = kept_before(source, dim, args[2] % source.shape[dim], self.keep_mask)
        return node.target, args

    def _pad(self, node: Node, args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, list[Any]]:
        source, out = self.value(args[0]), self.value(node)
        amounts = list(args[1])
        for index in range(len(amounts) // 2):
            dim = source.rank - 1 - index
            if not any(dim in varying(a) for a in out.axes) or not isinstance(
                amounts[2 * index], int
            ):
                continue
            before = amounts[2 * index]
            inside = kept_before(out, dim, before + source.shape[dim], self.keep_mask)
            total = kept_before(out, dim, out.shape[dim], self.keep_mask)
            amounts[2 * index] = kept_before(out, dim, before, self.keep_mask)
            amounts[2 * index + 1] = total - inside
        args[1] = amounts
        return node.target, args

    def _convolution(
        self, node: Node, args: list[Any], kwargs: dict[str, Any]
    ) -> tuple[Any, list[Any]]:
        weight, source = self.value(args[1]), self.value(args[0])
        place = 8 if operator_name(node.target) == "aten.convolution" else 6
        if len(args) > place and args[place] > 1:
            channel = source.rank - weight.rank + 1
            if source.shape[channel] == args[place]:
                args[place] = shrunk(source, self.keep_mask).shape[channel]
        return node.target, args

    def _attention(
        self, node: Node, args: list[Any], kwargs: dict[str, Any]
    ) -> tuple[Any, list[Any]]:
        query = self.value(args[0])
        if (
            kwargs.get("scale") is None
            and shrunk(query, self.keep_mask).shape[-1] != query.shape[-1]
        ):
            kwargs["scale"] = query.shape[-1] ** -0.5
        return node.target, args

    def _instances(
        self, node: Node, args: list[Any], kwargs: dict[str, Any]
    ) -> tuple[Any, list[Any]]:
        source = self.value(args[0])
        if args[1] == source.shape[1]:
            args[1] = shrunk(source, self.keep_mask).shape[1]
        return node.target, args

    def _repeat(self, node: Node, args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, list[Any]]:
        kwargs.pop("output_size", None)
        return node.target, args


FAMILIES = (
    dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "expand", "broadcast_to", "unflatten"), "shape"
    )
    | dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), "split")
    | dict.fromkeys(("slice", "narrow"), "slice")
    | dict.fromkeys(("pad", "constant_pad_nd"), "pad")
    | dict.fromkeys(
        [f"conv{kind}{rank}d" for kind in ("", "_transpose") for rank in (1, 2, 3)]
        + ["convolution"],
        "convolution",
    )
    | {
        "slice_scatter": "scatter",
        "select": "select",
        "scaled_dot_product_attention": "attention",
        "group_norm": "instances",
        "repeat_interleave": "repeat",
    }
)
