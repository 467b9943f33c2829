"""What a convolution is and how its arguments are read: the one place that knows.

torch has three forms of it. `conv2d` and its kin of other ranks hold their weight as (outputs,
inputs / groups, *kernel); `conv_transpose2d` and its kin as (inputs, outputs / groups, *kernel);
`convolution` is either, as its arguments say, and is what decompositions leave.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from fxprune.graph.nodes import argument
from fxprune.graph.operators import operator_name

LINEAR = "aten.linear"
CONVOLUTIONS = ("aten.conv1d", "aten.conv2d", "aten.conv3d")
TRANSPOSED = ("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")
GENERAL = "aten.convolution"
OUTPUTS_FIRST = (LINEAR, *CONVOLUTIONS)
"""Layers whose weight has its outputs on axis 0."""

_PLAIN = {"stride": 3, "padding": 4, "dilation": 5, "groups": 6}
_POSITIONS: dict[str, dict[str, int]] = {
    **dict.fromkeys(CONVOLUTIONS, _PLAIN),
    **dict.fromkeys(
        TRANSPOSED, {"stride": 3, "padding": 4, "output_padding": 5, "groups": 6, "dilation": 7}
    ),
    GENERAL: _PLAIN | {"transposed": 6, "output_padding": 7, "groups": 8},
}
"""Where each form has its arguments; input, weight and bias are always the first three."""


@dataclass(frozen=True)
class Convolution:
    """A convolution's arguments, whichever form of the operator holds them.

    Attributes:
        rank: number of kernel axes.
        transposed: whether it is a transposed one.
        stride, padding, dilation, output_padding: one number per kernel axis; `padding` may be
            "same" or "valid".
        groups: blocks of channels that do not read each other.
        groups_at: position of `groups` among the arguments.
    """

    rank: int
    transposed: bool
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int
    groups_at: int

    @property
    def inputs(self) -> int:
        """Axis of the weight along which its inputs lie."""
        return 0 if self.transposed else 1

    @property
    def outputs(self) -> int:
        """Axis of the weight along which its outputs lie."""
        return 1 if self.transposed else 0

    def channel(self, tensor_rank: int) -> int:
        """Dimension of an input or output of this rank, with a batch axis or without, that holds
        its channels.
        """
        return tensor_rank - self.rank - 1

    def padding_before(self, kernel: Sequence[int]) -> tuple[int, ...]:
        """Zeros before the first element of each image axis, for a kernel of these sizes."""
        if self.padding == "same":
            return tuple(d * (k - 1) // 2 for d, k in zip(self.dilation, kernel, strict=True))
        return (0,) * self.rank if isinstance(self.padding, str) else self.padding


def convolution_of(node: Node) -> Convolution | None:
    """The convolution that a call is, or None."""
    if node.op != "call_function":
        return None
    return read_convolution(operator_name(node.target), node.args, node.kwargs)


def read_convolution(
    operator: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Convolution | None:
    """The convolution that an operator makes of these arguments, or None where it is none.

    Args:
        operator: name without the overload.
        args, kwargs: of the call; the weight is a node or anything that has a shape.
    """
    positions = _POSITIONS.get(operator)
    if positions is None:
        return None

    def get(name: str, default: Any) -> Any:
        place = positions.get(name)
        if place is not None and place < len(args):
            return args[place]
        return kwargs.get(name, default)

    rank = _kernel_rank(args[1]) if operator == GENERAL else int(operator[-2])
    padding, groups = get("padding", 0), get("groups", 1)
    return Convolution(
        rank=rank,
        transposed=operator in TRANSPOSED or bool(get("transposed", False)),
        stride=_per_axis(get("stride", 1), rank),
        padding=padding if isinstance(padding, str) else _per_axis(padding, rank),
        dilation=_per_axis(get("dilation", 1), rank),
        output_padding=_per_axis(get("output_padding", 0), rank),
        groups=groups if isinstance(groups, int) else 1,
        groups_at=positions["groups"],
    )


def _kernel_rank(weight: Any) -> int:
    shape = weight.meta["val"].shape if isinstance(weight, Node) else weight.shape
    return len(shape) - 2


def _per_axis(value: Any, rank: int) -> tuple[Any, ...]:
    """A setting as one number per kernel axis; torch takes a single one for all."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return values * rank if len(values) == 1 else values


def reads_weight(node: Node) -> bool:
    """Whether a call is a convolution or linear map, whose second argument is its weight."""
    name = operator_name(node.target)
    return node.op == "call_function" and (name == LINEAR or name in _POSITIONS)


def bias_of(node: Node) -> str | None:
    """Name of the bias that a call adds."""
    bias = argument(node, 2)
    return str(bias.target) if isinstance(bias, Node) and bias.op == "get_attr" else None


def groups(node: Node) -> int:
    """Groups of a convolution; 1 for any other layer."""
    found = convolution_of(node)
    return 1 if found is None else found.groups


def channel_dim(node: Node, weight_rank: int) -> int:
    """The dimension of a layer's output that holds its channels."""
    if operator_name(node.target) == LINEAR:
        return -1
    return int(node.meta["val"].dim()) - weight_rank + 1
