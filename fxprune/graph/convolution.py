"""How a convolution's or linear map's arguments are read."""

from typing import Any

from torch.fx import Node

from fxprune.graph.operators import operator_name

CONVOLUTIONS = ("aten.conv1d", "aten.conv2d", "aten.conv3d")


def bias_of(node: Node) -> str | None:
    """Name of the bias that a call adds."""
    bias = _argument(node, 2)
    return str(bias.target) if isinstance(bias, Node) and bias.op == "get_attr" else None


def _argument(node: Node, index: int) -> Any:
    return node.args[index] if len(node.args) > index else None


def groups(node: Node) -> int:
    """Groups of a convolution; 1 for any other layer."""
    return (
        int(node.args[6])
        if operator_name(node.target) in CONVOLUTIONS and len(node.args) > 6
        else 1
    )  # type: ignore[arg-type]


def channel_dim(node: Node, weight_rank: int) -> int:
    """The dimension of a layer's output that holds its channels."""
    return (
        -1
        if operator_name(node.target) == "aten.linear"
        else node.meta["val"].dim() - weight_rank + 1
    )


def setting(node: Node, index: int, default: int, rank: int) -> list[int]:
    """A stride, padding or dilation of a convolution, one number per kernel axis."""
    value: Any = node.args[index] if len(node.args) > index else default
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values
