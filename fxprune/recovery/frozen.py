"""Batch norms whose statistics stay as they are, computed with the convolutions before them.

Such a norm scales and shifts channels: of a convolution's weight for nothing, of its outputs for a
fifth of a step (docs/recover.md). The parameters, and their gradients, are the same.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from fxprune.graph.convolution import CONVOLUTIONS
from fxprune.graph.nodes import only_user
from fxprune.graph.operators import operator_name

CONVOLVE: dict[type[nn.Module], Any] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
}
NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d


def fold_frozen(module: GraphModule, graph: Graph) -> None:
    """Rewrite a graph so that convolutions followed by a batch norm alone give what the norm gives.

    Args:
        module: whose layers and tensors the graph calls; stays as it is.
        graph: rewritten.
    """
    for node in list(graph.nodes):
        source = node.args[0] if node.args else None
        if not isinstance(source, Node) or only_user(source) is not node or node.kwargs:
            continue
        if not _is_norm(module, node) or not _is_convolution(module, source):
            continue
        with graph.inserting_before(node):
            function, (value, weight, bias, *rest) = _convolution(module, graph, source)
            both = graph.call_function(scaled, (weight, bias, *_norm(module, graph, node)))
            parts = [graph.call_function(_part, (both, index)) for index in range(2)]
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


def _part(both: tuple[Tensor, Tensor], index: int) -> Tensor:
    return both[index]


def _is_norm(module: GraphModule, node: Node) -> bool:
    if node.op == "call_module":
        norm = module.get_submodule(str(node.target))
        return type(norm) in NORMS and norm.running_mean is not None
    if operator_name(node.target) != "aten.batch_norm":
        return False
    return all(isinstance(a, Node) for a in node.args[3:5]) and node.args[5] is False


def _is_convolution(module: GraphModule, node: Node) -> bool:
    if node.kwargs:
        return False
    if node.op == "call_module":
        layer = module.get_submodule(str(node.target))
        return type(layer) in CONVOLVE and layer.padding_mode == "zeros"
    return operator_name(node.target) in CONVOLUTIONS


def _convolution(module: GraphModule, graph: Graph, node: Node) -> tuple[Any, list[Any]]:
    """What computes a convolution, and its arguments: input, weight, bias, and the rest."""
    if node.op == "call_function":
        value, weight, *rest = node.args
        bias, *rest = rest or [None]
        return node.target, [value, weight, bias, *rest]
    layer: Any = module.get_submodule(str(node.target))
    weight, bias = (_tensor(graph, node, layer, name) for name in ("weight", "bias"))
    rest = [layer.stride, layer.padding, layer.dilation, layer.groups]
    return CONVOLVE[type(layer)], [node.args[0], weight, bias, *rest]


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
