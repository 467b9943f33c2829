"""Calls of a captured graph that are layers: a convolution or linear map with a weight of its
own.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.fx import GraphModule, Node

from fxprune.graph.convolution import OUTPUTS_FIRST, bias_of, groups
from fxprune.graph.nodes import argument, attribute, only_user
from fxprune.graph.operators import operator_name
from fxprune.graph.tensors import is_made

MOST_OUTPUTS = 4096
"""Layers with more outputs (heads over a vocabulary) get no matrix of (outputs, outputs): it would
not fit beside the model.
"""


@dataclass(frozen=True)
class Layer:
    """Calls of one weight that nothing else reads.

    Attributes:
        calls: most often one.
        weight: name of the weight.
        bias: name of the bias, where no other call reads it.
        mean: where the calls have no bias, name of the mean of the BatchNorm behind them, which
            can stand in for one.
    """

    calls: tuple[Node, ...]
    weight: str
    bias: str | None
    mean: str | None

    @property
    def node(self) -> Node:
        """The first of the calls."""
        return self.calls[0]

    @property
    def intercept(self) -> bool:
        """Whether the outputs can be shifted."""
        return self.bias is not None or self.mean is not None


def own_layers(module: GraphModule) -> dict[str, Layer]:
    """The layers of a graph by the names of their first calls."""
    readers: dict[str, int] = defaultdict(int)
    calls: dict[str, list[Node]] = defaultdict(list)
    for node in module.graph.nodes:
        for source in node.all_input_nodes:
            if source.op == "get_attr":
                readers[str(source.target)] += 1
        if operator_name(node.target) in OUTPUTS_FIRST and not node.kwargs:
            weight = argument(node, 1)
            if (
                isinstance(weight, Node)
                and weight.op == "get_attr"
                and not is_made(str(weight.target))
            ):
                calls[str(weight.target)].append(node)
    found = {}
    for weight_name, nodes in calls.items():
        if readers[weight_name] > len(nodes) or len({bias_of(n) for n in nodes}) > 1:
            continue
        bias = bias_of(nodes[0])
        users = [only_user(n) for n in nodes]
        norms = [n if n and operator_name(n.target) == "aten.batch_norm" else None for n in users]
        means = {
            str(n.args[3].target) if n is not None and isinstance(n.args[3], Node) else None
            for n in norms
        }
        mean = (
            means.pop() if len(means) == 1 and all(argument(n, 2) is None for n in nodes) else None
        )
        found[nodes[0].name] = Layer(
            tuple(nodes),
            weight_name,
            bias if bias and readers[bias] == len(nodes) and not is_made(bias) else None,
            mean if mean and readers[mean] == len(nodes) and not is_made(mean) else None,
        )
    return found


def factorable(
    module: GraphModule, ignore: Callable[[str], bool]
) -> tuple[dict[str, Layer], dict[str, str]]:
    """Layers that two could replace, by the name of their weight, and why others could not, by the
    name of theirs.

    Args:
        module: the captured graph.
        ignore: parameter names that must keep their shape.
    """
    found, others = {}, {}
    for layer in own_layers(module).values():
        weight = attribute(module, layer.weight)
        if ignore(layer.weight):
            others[layer.weight] = "ignored on request"
        elif len(layer.calls) > 1:
            others[layer.weight] = "several calls share it"
        elif not replaceable(module, layer.weight, layer.bias):
            others[layer.weight] = "its module holds more than a weight and a bias"
        elif min(len(weight) // groups(layer.node), math.prod(weight.shape[1:])) < 2:
            others[layer.weight] = "its rank is 1"
        elif len(weight) > MOST_OUTPUTS:
            others[layer.weight] = f"it has more than {MOST_OUTPUTS} outputs"
        else:
            found[layer.weight] = layer
    return found, others


def replaceable(module: GraphModule, weight: str, bias: str | None) -> bool:
    """Whether two layers could stand where a weight is: in a module of a weight and its bias, or
    beside the tensors of a flat graph.

    Args:
        weight, bias: names; the bias is what the weight's one call adds, if it is its own.
    """
    path, _, leaf = weight.rpartition(".")
    owner = module.get_submodule(path)
    if not isinstance(owner._parameters.get(leaf), nn.Parameter):
        return False
    if not path:  # beside a layer's weight of the root its two layers must have their places
        return leaf != "weight" or owner._modules.keys().isdisjoint("01")
    own = {leaf, "bias"} if leaf == "weight" else {leaf, str(bias).removeprefix(f"{path}.")}
    return not (owner._modules or owner._buffers or set(owner._parameters) - own)
