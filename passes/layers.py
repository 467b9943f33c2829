"""The layers that calls are lifted to: which argument of an operator is which tensor of its layer,
and how the layer is built from the rest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.fx import Node

from fxprune.graph.convolution import convolution_of
from fxprune.graph.nodes import argument

Tensors = Mapping[str, Tensor]
"""A layer's tensors by the names it has for them."""


@dataclass(frozen=True)
class LayerKind:
    """How one operator's calls become layers.

    Attributes:
        activation: position of the argument that the layer is called on.
        tensors: names of the layer's tensors, by the positions of the arguments that are them.
        build: makes the layer on the meta device, or None where none computes the same.
    """

    activation: int
    tensors: Mapping[int, str]
    build: Callable[[Node, Tensors], nn.Module | None]


CONVOLUTION_LAYERS: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_LAYERS: Any = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _convolution(node: Node, tensors: Tensors) -> nn.Module | None:
    how, weight = convolution_of(node), tensors["weight"]
    if how is None:
        return None
    layers = TRANSPOSED_LAYERS if how.transposed else CONVOLUTION_LAYERS
    options: dict[str, Any] = {"output_padding": how.output_padding} if how.transposed else {}
    sizes = weight.shape[0], weight.shape[1] * how.groups
    layer: nn.Module = layers[how.rank - 1](
        sizes[how.inputs],
        sizes[how.outputs],
        kernel_size=tuple(weight.shape[2:]),
        stride=how.stride,
        padding=how.padding,
        dilation=how.dilation,
        groups=how.groups,
        bias="bias" in tensors,
        device="meta",
        **options,
    )
    return layer


def _linear(node: Node, tensors: Tensors) -> nn.Module:
    outputs, inputs = tensors["weight"].shape
    return nn.Linear(inputs, outputs, bias="bias" in tensors, device="meta")


def _batch_norm(node: Node, tensors: Tensors) -> nn.Module | None:
    if "running_mean" not in tensors or argument(node, 5, False):
        return None  # The statistics are the batch's.
    source: Any = node.args[0]
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    momentum, eps = node.args[6:8]
    return kinds[source.meta["val"].dim()](
        tensors["running_mean"].shape[0],
        eps=eps,  # type: ignore[arg-type]
        momentum=momentum,  # type: ignore[arg-type]
        affine="weight" in tensors,
        device="meta",
    )


def _layer_norm(node: Node, tensors: Tensors) -> nn.Module | None:
    if "weight" not in tensors:
        return None
    return nn.LayerNorm(
        tuple(tensors["weight"].shape),
        eps=argument(node, 4, 1e-5),
        bias="bias" in tensors,
        device="meta",
    )


def _group_norm(node: Node, tensors: Tensors) -> nn.Module | None:
    if set(tensors) != {"weight", "bias"}:
        return None
    return nn.GroupNorm(
        argument(node, 1, 1),
        tensors["weight"].shape[0],
        eps=argument(node, 4, 1e-5),
        device="meta",
    )


def _embedding(node: Node, tensors: Tensors) -> nn.Module:
    rows, width = tensors["weight"].shape
    padding = argument(node, 2, -1)
    return nn.Embedding(rows, width, padding if padding >= 0 else None, device="meta")


_AFFINE = {1: "weight", 2: "bias"}
_NORM = {2: "weight", 3: "bias"}
_STATISTICS = {3: "running_mean", 4: "running_var"}

LAYERS: Mapping[str, LayerKind] = {
    "aten.linear": LayerKind(0, _AFFINE, _linear),
    "aten.conv1d": LayerKind(0, _AFFINE, _convolution),
    "aten.conv2d": LayerKind(0, _AFFINE, _convolution),
    "aten.conv3d": LayerKind(0, _AFFINE, _convolution),
    "aten.conv_transpose1d": LayerKind(0, _AFFINE, _convolution),
    "aten.conv_transpose2d": LayerKind(0, _AFFINE, _convolution),
    "aten.conv_transpose3d": LayerKind(0, _AFFINE, _convolution),
    "aten.batch_norm": LayerKind(0, _AFFINE | _STATISTICS, _batch_norm),
    "aten.layer_norm": LayerKind(0, _NORM, _layer_norm),
    "aten.group_norm": LayerKind(0, _NORM, _group_norm),
    "aten.embedding": LayerKind(1, {0: "weight"}, _embedding),
}
"""By operator."""
