"""The layers that calls are lifted to: which argument of an operator is which tensor of its layer,
and how the layer is built from the rest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.fx import Node

from fxprune.graph.convolution import setting

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


def _argument(node: Node, index: int, default: Any) -> Any:
    return node.args[index] if len(node.args) > index else default


def _convolution(node: Node, tensors: Tensors) -> nn.Module:
    weight = tensors["weight"]
    rank, groups = weight.dim() - 2, _argument(node, 6, 1)
    padding = _argument(node, 4, 0)
    return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1](
        weight.shape[1] * groups,
        weight.shape[0],
        kernel_size=tuple(weight.shape[2:]),  # type: ignore[arg-type]
        stride=tuple(setting(node, 3, 1, rank)),  # type: ignore[arg-type]
        padding=padding if isinstance(padding, str) else tuple(setting(node, 4, 0, rank)),  # type: ignore[arg-type]
        dilation=tuple(setting(node, 5, 1, rank)),  # type: ignore[arg-type]
        groups=groups,
        bias="bias" in tensors,
        device="meta",
    )


def _transposed_convolution(node: Node, tensors: Tensors) -> nn.Module:
    weight = tensors["weight"]
    rank, groups = weight.dim() - 2, _argument(node, 6, 1)
    return (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[rank - 1](
        weight.shape[0],
        weight.shape[1] * groups,
        kernel_size=tuple(weight.shape[2:]),  # type: ignore[arg-type]
        stride=tuple(setting(node, 3, 1, rank)),  # type: ignore[arg-type]
        padding=tuple(setting(node, 4, 0, rank)),  # type: ignore[arg-type]
        output_padding=tuple(setting(node, 5, 0, rank)),  # type: ignore[arg-type]
        groups=groups,
        bias="bias" in tensors,
        dilation=tuple(setting(node, 7, 1, rank)),  # type: ignore[arg-type]
        device="meta",
    )


def _linear(node: Node, tensors: Tensors) -> nn.Module:
    outputs, inputs = tensors["weight"].shape
    return nn.Linear(inputs, outputs, bias="bias" in tensors, device="meta")


def _batch_norm(node: Node, tensors: Tensors) -> nn.Module | None:
    if "running_mean" not in tensors:
        return None
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
        eps=_argument(node, 4, 1e-5),
        bias="bias" in tensors,
        device="meta",
    )


def _group_norm(node: Node, tensors: Tensors) -> nn.Module | None:
    if set(tensors) != {"weight", "bias"}:
        return None
    return nn.GroupNorm(
        _argument(node, 1, 1),
        tensors["weight"].shape[0],
        eps=_argument(node, 4, 1e-5),
        device="meta",
    )


def _embedding(node: Node, tensors: Tensors) -> nn.Module:
    rows, width = tensors["weight"].shape
    padding = _argument(node, 2, -1)
    return nn.Embedding(rows, width, padding if padding >= 0 else None, device="meta")


_AFFINE = {1: "weight", 2: "bias"}
_NORM = {2: "weight", 3: "bias"}
_STATISTICS = {3: "running_mean", 4: "running_var"}

LAYERS: Mapping[str, LayerKind] = {
    "aten.linear": LayerKind(0, _AFFINE, _linear),
    "aten.conv1d": LayerKind(0, _AFFINE, _convolution),
    "aten.conv2d": LayerKind(0, _AFFINE, _convolution),
    "aten.conv3d": LayerKind(0, _AFFINE, _convolution),
    "aten.conv_transpose1d": LayerKind(0, _AFFINE, _transposed_convolution),
    "aten.conv_transpose2d": LayerKind(0, _AFFINE, _transposed_convolution),
    "aten.conv_transpose3d": LayerKind(0, _AFFINE, _transposed_convolution),
    "aten.batch_norm": LayerKind(0, _AFFINE | _STATISTICS, _batch_norm),
    "aten.layer_norm": LayerKind(0, _NORM, _layer_norm),
    "aten.group_norm": LayerKind(0, _NORM, _group_norm),
    "aten.embedding": LayerKind(1, {0: "weight"}, _embedding),
}
"""By operator."""
