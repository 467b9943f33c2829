"""Calls of a captured graph that are layers: a convolution or linear map with a weight of its own."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule, Node

from fxprune.propagation import attribute
from fxprune.rules.registry import operator_name

CONVOLUTIONS = ("aten.conv1d", "aten.conv2d", "aten.conv3d")
MOST_OUTPUTS = 4096
"""Layers with more outputs are not factored: their covariance would not fit beside the model."""


@dataclass(frozen=True)
class Layer:
    """A call with a weight that no other call reads.

    Attributes:
        node: the call.
        weight: name of the weight.
        bias: name of the bias, where no other call reads it.
        mean: where the call has no bias, name of the mean of the BatchNorm behind it, which can stand in for one.
    """

    node: Node
    weight: str
    bias: str | None
    mean: str | None

    @property
    def intercept(self) -> bool:
        """Whether the outputs can be shifted."""
        return self.bias is not None or self.mean is not None


def own_layers(module: GraphModule) -> dict[str, Layer]:
    """The layers of a graph by the names of their calls."""
    readers: dict[str, int] = defaultdict(int)
    for node in module.graph.nodes:
        for source in node.all_input_nodes:
            if source.op == "get_attr":
                readers[str(source.target)] += 1
    result = {}
    for node in module.graph.nodes:
        if operator_name(node.target) not in (*CONVOLUTIONS, "aten.linear") or node.kwargs:
            continue
        weight = node.args[1]
        if not isinstance(weight, Node) or weight.op != "get_attr" or readers[str(weight.target)] > 1:
            continue
        bias = node.args[2] if len(node.args) > 2 else None
        norm = _only_user(node, "aten.batch_norm")
        mean = str(norm.args[3].target) if norm is not None and isinstance(norm.args[3], Node) else None
        own_bias = isinstance(bias, Node) and bias.op == "get_attr" and readers[str(bias.target)] == 1
        result[node.name] = Layer(
            node, str(weight.target), str(bias.target) if isinstance(bias, Node) and own_bias else None,
            mean if bias is None and mean and readers[mean] == 1 else None,
        )  # fmt: skip
    return result


def factorable(module: GraphModule, ignore: Callable[[str], bool]) -> tuple[dict[str, Layer], dict[str, str]]:
    """Layers that two could replace, by the name of their weight, and why others could not, by the name of theirs.

    Args:
        module: the captured graph.
        ignore: parameter names that must keep their shape.
    """
    found, others = {}, {}
    for layer in own_layers(module).values():
        path, _, leaf = layer.weight.rpartition(".")
        weight, owner = attribute(module, layer.weight), module.get_submodule(path)
        if ignore(layer.weight):
            others[layer.weight] = "ignored on request"
        elif leaf != "weight" or owner._modules or set(owner._parameters) - {"weight", "bias"} or owner._buffers:
            others[layer.weight] = "its module holds more than a weight and a bias"
        elif min(len(weight) // groups(layer.node), weight[0].numel()) < 2:
            others[layer.weight] = "its rank is 1"
        elif len(weight) > MOST_OUTPUTS:
            others[layer.weight] = f"it has more than {MOST_OUTPUTS} outputs"
        else:
            found[layer.weight] = layer
    return found, others


def groups(node: Node) -> int:
    """Groups of a convolution; 1 for any other layer."""
    return int(node.args[6]) if operator_name(node.target) in CONVOLUTIONS and len(node.args) > 6 else 1  # type: ignore[arg-type]


def channel_dim(node: Node, weight_rank: int) -> int:
    """The dimension of a layer's output that holds its channels."""
    return -1 if operator_name(node.target) == "aten.linear" else node.meta["val"].dim() - weight_rank + 1


def setting(node: Node, index: int, default: int, rank: int) -> list[int]:
    """A stride, padding or dilation of a convolution, one number per kernel axis."""
    value: Any = node.args[index] if len(node.args) > index else default
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values


def _only_user(node: Node, operator: str) -> Node | None:
    users = list(node.users)
    if len(users) == 1 and operator_name(users[0].target) == operator:
        return users[0]
    return None
