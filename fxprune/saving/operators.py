"""What a saved graph may call: layer classes and their arguments, operators, and a table of Python
functions.
"""

import builtins
import functools
import math
import operator
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch.fx import Node

from fxprune.errors import StorageError

OPERATOR = re.compile(r"aten\.([A-Za-z][A-Za-z0-9_]*|_[A-Za-z0-9_]*)\.([A-Za-z0-9_]+)", re.ASCII)
PRIVATE = re.compile(
    r"_(log_)?softmax|_to_copy|_unsafe_view|_conj|_neg_view|_reshape_\w+|_stack|_adaptive_avg_pool[23]d|_convolution|_upsample_\w+_aa"
    r"|_(native_)?batch_norm\w*|_scaled_dot_product_\w+_attention(_for_cpu)?|_weight_norm\w*|_cdist_forward|_euclidean_dist|_trilinear"
    r"|_fft_[cr]2[cr]|_embedding_bag\w*|_linalg_\w+|_native_multi_head_attention|_pdist_forward|_local_scalar_dense|_shape_as_tensor"
    r"|_cat|_pad_(circular|enum)|_prelu_kernel|_fused_rms_norm|_is_all_true|_is_any_true|_dim_arange|_chunk_cat"
)
"""Operators with a leading underscore that a model may hold; the others skip checks of their
arguments.
"""
REFUSED_TYPES = ("Storage", "Stream", "torch.classes")

FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    **{
        f"operator.{n}": (getattr(operator, n), (2,))
        for n in (
            "getitem",
            "add",
            "sub",
            "mul",
            "truediv",
            "floordiv",
            "mod",
            "pow",
            "eq",
            "ne",
            "lt",
            "le",
            "gt",
            "ge",
            "and_",
            "or_",
            "xor",
            "lshift",
            "rshift",
        )
    },
    **{
        f"operator.{n}": (getattr(operator, n), (1,))
        for n in ("neg", "pos", "abs", "invert", "not_")
    },
    **{
        f"math.{n}": (getattr(math, n), (1,))
        for n in ("ceil", "floor", "trunc", "sqrt", "log", "exp", "cos", "sin")
    },
    **{
        f"builtins.{n}": (getattr(builtins, n), (1,))
        for n in ("int", "float", "bool", "abs", "round")
    },
    **{f"builtins.{n}": (getattr(builtins, n), (2, 3, 4)) for n in ("max", "min")},
    **{
        f"torch.{n}": (getattr(torch, n), (1,))
        for n in ("sym_int", "sym_float", "sym_not", "sym_sqrt")
        if hasattr(torch, n)
    },
    **{f"torch.{n}": (getattr(torch, n), (2,)) for n in ("sym_max", "sym_min")},
    "torch.sym_ite": (torch.sym_ite, (3,)),
}
"""Name -> function and the numbers of arguments it takes."""
NAMES_OF_FUNCTIONS: dict[Any, str] = {function: name for name, (function, _) in FUNCTIONS.items()}


def _sizes(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(_size(v) for v in value)


def _size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


SIZES = {"kernel_size", "stride", "dilation", "output_padding", "normalized_shape"}
NUMBERS = {"eps", "p", "norm_type"}
MAYBE_NUMBERS = {"momentum", "max_norm"}
FLAGS = {
    "bias",
    "affine",
    "elementwise_affine",
    "track_running_stats",
    "scale_grad_by_freq",
    "sparse",
    "inplace",
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
    nn.Dropout: ("p", "inplace"),
    nn.Identity: (),
    nn.Sequential: (),
}
"""Layer class -> constructor arguments; a layer holds the attribute of the same name, and `bias`
says whether it has one.
"""
NAMED_LAYERS = {layer.__name__: layer for layer in LAYERS}


def layer_arguments(layer: nn.Module) -> dict[str, Any]:
    """Constructor arguments that make a layer like this one."""
    return {
        name: layer.bias is not None if name == "bias" else getattr(layer, name)
        for name in LAYERS[type(layer)]
    }


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


@functools.cache
def _operators() -> frozenset[str]:
    return frozenset(torch._C._dispatch_get_all_op_names())


def operator_text(target: Any) -> str:
    """The name of an operator in a file.

    Raises:
        StorageError: it is none that a file may name.
    """
    if not isinstance(target, OpOverload):
        name = getattr(target, "__name__", str(target))
        raise StorageError(
            f"The graph calls {name}, which cannot be saved. Save the state dict, and compress "
            "again to load it."
        )
    text = str(target)
    operator_named(text)
    return text


def operator_named(text: str) -> OpOverload:
    """The `aten` operator of this name.

    Raises:
        StorageError: not of the form aten.name.overload; unknown; or one that changes its inputs,
            reads files or skips checks.
    """
    match = OPERATOR.fullmatch(text)
    if match is None:
        raise StorageError(
            f"{text[:80]!r} is not an operator of torch.ops.aten; models with other operators "
            "cannot be saved or loaded."
        )
    name, overload = match.groups()
    if f"aten::{name}" + ("" if overload == "default" else f".{overload}") not in _operators():
        raise StorageError(
            f"This torch {torch.__version__} has no operator {text[:80]}. Install the version "
            "that the model was saved with."
        )
    found = getattr(getattr(torch.ops.aten, name), overload)
    if not isinstance(found, OpOverload):
        raise StorageError(f"{text} is not an operator.")
    arguments = found._schema.arguments
    refused = any(
        a.name == "filename" or any(t in str(a.type) for t in REFUSED_TYPES) for a in arguments
    )
    private = name.startswith("_") and not name.startswith("__") and not PRIVATE.fullmatch(name)
    if refused or private or found._schema.is_mutable and "batch_norm" not in name:
        raise StorageError(
            f"The operator {text} changes its inputs, reads files or skips checks: a saved model "
            "may not hold it."
        )
    return found


def _fits(kind: str, value: Any) -> bool:
    """Whether an argument may be given where the operator's schema says `kind`; a node may be
    anything.
    """
    if isinstance(value, Node):
        return True
    if kind.startswith("Optional["):
        return value is None or _fits(kind[9:-1], value)
    if kind.startswith("List["):
        inner = kind[5:-1]
        if isinstance(value, (list, tuple)):
            return all(_fits(inner, v) for v in value)
        return "Tensor" not in inner and _fits(inner, value)
    if kind in ("Tensor", "number"):
        return isinstance(value, (bool, int, float, complex))
    if kind == "int":
        return isinstance(value, (int, torch.dtype, torch.layout, torch.memory_format))
    if kind == "Device":
        return isinstance(value, torch.device)
    expected = {"float": (int, float), "bool": (bool, int), "str": (str,)}.get(kind, ())
    return isinstance(value, expected)


def check_call(
    text: str, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Check a call's arguments against the operator's schema, or their number.

    Raises:
        StorageError: they do not fit.
    """
    if not isinstance(target, OpOverload):
        if (
            kwargs
            or len(args) not in FUNCTIONS[text][1]
            or not any(isinstance(a, Node) for a in args)
        ):
            raise StorageError(
                f"The file's graph calls {text} with arguments that it does not take."
            )
        return
    schema = {a.name: a for a in target._schema.arguments}
    given = dict(zip(schema, args, strict=False)) | kwargs
    wrong = (
        len(args) > len(schema)
        or len(given) != len(args) + len(kwargs)
        or not set(given) <= set(schema)
    )
    for name, argument in schema.items():
        wrong = wrong or (
            not _fits(str(argument.type), given[name])
            if name in given
            else not argument.has_default_value()
        )
    if wrong:
        raise StorageError(f"The file's graph calls {text} with arguments that it does not take.")
