"""Layer classes that a saved model may hold, and their constructor arguments."""

from typing import Any

import torch
from torch import nn

from fxprune.errors import StorageError


def _sizes(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(_size(v) for v in value)


def _size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


SIZES = {"kernel_size", "stride", "dilation", "output_padding", "normalized_shape"}
NUMBERS = {"eps", "p", "norm_type", "dropout"}
MAYBE_NUMBERS = {"momentum", "max_norm"}
FLAGS = {
    "bias",
    "affine",
    "elementwise_affine",
    "track_running_stats",
    "scale_grad_by_freq",
    "sparse",
    "inplace",
    "batch_first",
    "bidirectional",
}


def _valid(name: str, value: Any) -> bool:
    """Whether a constructor argument is of its type."""
    if name in SIZES:
        return _sizes(value)
    if name in NUMBERS or name in MAYBE_NUMBERS:
        return _number(value) or value is None and name in MAYBE_NUMBERS
    if name in FLAGS:
        return _flag(value)
    if name == "padding":
        return _sizes(value) or value in ("same", "valid")
    if name == "padding_mode":
        return value in ("zeros", "reflect", "replicate", "circular")
    if name == "nonlinearity":
        return value in ("tanh", "relu")
    if name == "padding_idx":
        return _size(value) or value is None
    return _size(value)


CONV = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "bias",
    "padding_mode",
)
TRANSPOSED = (*CONV[:5], "output_padding", *CONV[5:])
NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
EMBEDDING = (
    "num_embeddings",
    "embedding_dim",
    "padding_idx",
    "max_norm",
    "norm_type",
    "scale_grad_by_freq",
    "sparse",
)
RECURRENT = (
    "input_size",
    "hidden_size",
    "num_layers",
    "bias",
    "batch_first",
    "dropout",
    "bidirectional",
)
LAYERS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv1d: CONV,
    nn.Conv2d: CONV,
    nn.Conv3d: CONV,
    nn.ConvTranspose1d: TRANSPOSED,
    nn.ConvTranspose2d: TRANSPOSED,
    nn.ConvTranspose3d: TRANSPOSED,
    nn.Linear: ("in_features", "out_features", "bias"),
    nn.BatchNorm1d: NORM,
    nn.BatchNorm2d: NORM,
    nn.BatchNorm3d: NORM,
    nn.LayerNorm: ("normalized_shape", "eps", "elementwise_affine", "bias"),
    nn.GroupNorm: ("num_groups", "num_channels", "eps", "affine"),
    nn.Embedding: EMBEDDING,
    nn.GRU: RECURRENT,
    nn.LSTM: (*RECURRENT, "proj_size"),
    nn.RNN: (*RECURRENT, "nonlinearity"),
    nn.Dropout: ("p", "inplace"),
    nn.Identity: (),
    nn.Sequential: (),
}
"""Layer class -> constructor arguments; a layer holds the attribute of the same name, and `bias`
says whether it has one (a recurrent layer: a flag).
"""
NAMED_LAYERS = {layer.__name__: layer for layer in LAYERS}


def layer_arguments(layer: nn.Module) -> dict[str, Any]:
    """Constructor arguments that make a layer like this one."""
    arguments = {name: getattr(layer, name) for name in LAYERS[type(layer)]}
    if "bias" in arguments and not isinstance(layer, nn.RNNBase):
        arguments["bias"] = layer.bias is not None
    return arguments


def make_layer(kind: str, arguments: dict[str, Any]) -> nn.Module:
    """A layer on the meta device.

    Raises:
        StorageError: the class is not in the table, or an argument is missing, unknown or of
            another type.
    """
    layer = NAMED_LAYERS.get(kind)
    if layer is None:
        raise StorageError(
            f"The file names the layer class {kind[:80]!r}, which fxprune does not load."
        )
    names = LAYERS[layer]
    if set(arguments) != set(names):
        raise StorageError(
            f"The file gives {kind} the arguments {sorted(arguments)}; it takes {sorted(names)}."
        )
    for name, value in arguments.items():
        if not _valid(name, value):
            raise StorageError(f"The file gives {kind} {name}={str(value)[:80]}.")
    # A layer without parameters takes no device.
    with torch.device("meta"):
        return layer(**arguments)
