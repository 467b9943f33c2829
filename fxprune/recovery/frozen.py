"""Batch norms whose statistics stay as they are, computed with the convolutions before them.

Such a norm scales and shifts channels: of a convolution's weight for nothing, of its outputs for a
fifth of a step (docs/recover.md). The parameters, and their gradients, are the same.
"""

from collections.abc import Sequence
from operator import getitem
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from fxprune.graph.convolution import CONVOLUTIONS
from fxprune.graph.nodes import attribute
from fxprune.graph.operators import operator_name

CONVOLVE: dict[type[nn.Module], Any] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
}
NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm
"""Layers that keep statistics of what they see."""


def fold_frozen(module: GraphModule, graph: Graph) -> None:
    """Rewrite a graph so that convolutions followed by a batch norm alone give what the norm gives.

    Args:
        module: whose layers and tensors the graph calls; stays as it is.
        graph: rewritten.
    """
    for node in list(graph.nodes):
        source = node.args[0] if node.args else None
        if not isinstance(source, Node) or len(source.users) > 1 or node.kwargs:
            continue
        mean, weight = _mean(module, node), _weight(module, source)
        if mean is None or weight is None or mean.dtype != weight.dtype or weight.itemsize < 4:
            continue  # of half precision, weights would be rounded once more
        with graph.inserting_before(node):
            function, (value, *own), rest = _convolution(module, graph, source)
            both = graph.call_function(scaled, (*own, *_norm(module, graph, node)))
            parts = [graph.call_function(getitem, (both, index)) for index in range(2)]
            folded = graph.call_function(function, (value, *parts, *rest))
        node.replace_all_uses_with(folded)
        graph.erase_node(node)
        graph.erase_node(source)


def scaled(
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """A convolution's weight (outputs, ...) and bias (outputs,) with a norm behind it.

    Args:
        weight, bias: its own.
        scale, shift, mean, variance: (outputs,) of the norm.
        eps: added to the variance.
    """
    factor = (variance + eps).rsqrt()
    factor = factor if scale is None else factor * scale
    offset = -mean if bias is None else bias - mean
    offset = offset * factor if shift is None else offset * factor + shift
    return weight * factor.view(-1, *[1] * (weight.dim() - 1)), offset


def _mean(module: GraphModule, node: Node) -> Tensor | None:
    """The mean that a norm keeps; None where a node is no such norm."""
    if node.op == "call_module":
        norm: Any = module.get_submodule(str(node.target))
        return norm.running_mean if type(norm) in NORMS else None
    if operator_name(node.target) != "aten.batch_norm" or node.args[5] is not False:
        return None
    return _held(module, node.args[3])


def _weight(module: GraphModule, node: Node) -> Tensor | None:
    """The weight of a convolution; None where a node is no such call."""
    if node.kwargs:
        return None
    if node.op == "call_module":
        layer: Any = module.get_submodule(str(node.target))
        return layer.weight if type(layer) in CONVOLVE and layer.padding_mode == "zeros" else None
    return _held(module, node.args[1]) if operator_name(node.target) in CONVOLUTIONS else None


def _held(module: GraphModule, node: Any) -> Tensor | None:
    """The tensor that a node reads off the module."""
    found = isinstance(node, Node) and node.op == "get_attr"
    return attribute(module, str(node.target)) if found else None


def _convolution(
    module: GraphModule, graph: Graph, node: Node
) -> tuple[Any, list[Any], Sequence[Any]]:
    """What computes a convolution; its input, weight and bias; and its other arguments."""
    if node.op == "call_function":
        value, weight, bias, *rest = (*node.args, None) if len(node.args) == 2 else node.args
        return node.target, [value, weight, bias], rest
    layer: Any = module.get_submodule(str(node.target))
    own = [_tensor(graph, node, layer, name) for name in ("weight", "bias")]
    rest = [layer.stride, layer.padding, layer.dilation, layer.groups]
    return CONVOLVE[type(layer)], [node.args[0], *own], rest


def _norm(module: GraphModule, graph: Graph, node: Node) -> list[Any]:
    """Scale, shift, mean, variance and what is added to it."""
    if node.op == "call_function":
        return [*node.args[1:5], node.args[7]]
    norm: Any = module.get_submodule(str(node.target))
    names = "weight", "bias", "running_mean", "running_var"
    return [*(_tensor(graph, node, norm, name) for name in names), norm.eps]


def _tensor(graph: Graph, call: Node, owner: nn.Module, name: str) -> Node | None:
    """What reads a tensor of a layer that is called."""
    if getattr(owner, name) is None:
        return None
    return graph.get_attr(f"{call.target}.{name}")
