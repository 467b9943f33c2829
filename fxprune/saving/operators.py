"""What a saved graph may call: `aten` operators, and a table of Python functions."""

import builtins
import functools
import math
import operator
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node

from fxprune.errors import StorageError

OPERATOR = re.compile(r"aten\.([A-Za-z][A-Za-z0-9_]*|_[A-Za-z0-9_]*)\.([A-Za-z0-9_]+)", re.ASCII)
PRIVATE = re.compile(
    r"_(log_)?softmax|_to_copy|_unsafe_view|_conj|_neg_view|_reshape_\w+|_stack"
    r"|_adaptive_avg_pool[23]d|_convolution|_upsample_\w+_aa|_(native_)?batch_norm\w*"
    r"|_scaled_dot_product_\w+_attention(_for_cpu)?|_weight_norm\w*|_cdist_forward"
    r"|_euclidean_dist|_trilinear|_fft_[cr]2[cr]|_embedding_bag\w*|_linalg_\w+"
    r"|_native_multi_head_attention|_pdist_forward|_local_scalar_dense|_shape_as_tensor"
    r"|_cat|_pad_(circular|enum)|_prelu_kernel|_fused_rms_norm|_is_all_true|_is_any_true"
    r"|_dim_arange|_chunk_cat"
)
"""Operators with a leading underscore that a model may hold; the others skip checks of their
arguments.
"""
REFUSED_TYPES = ("Storage", "Stream", "torch.classes")


def _functions(
    module: ModuleType, names: str, *counts: int
) -> dict[str, tuple[Callable[..., Any], tuple[int, ...]]]:
    """Functions of a module by qualified name, with the numbers of arguments that they take."""
    return {
        f"{module.__name__}.{name}": (getattr(module, name), counts)
        for name in names.split()
        if hasattr(module, name)
    }


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    **_functions(operator, "getitem add sub mul truediv floordiv mod pow", 2),
    **_functions(operator, "eq ne lt le gt ge and_ or_ xor lshift rshift", 2),
    **_functions(operator, "neg pos abs invert not_", 1),
    **_functions(math, "ceil floor trunc sqrt log exp cos sin", 1),
    **_functions(builtins, "int float bool abs round", 1),
    **_functions(builtins, "max min", 2, 3, 4),
    **_functions(torch, "sym_int sym_float sym_not sym_sqrt", 1),
    **_functions(torch, "sym_max sym_min", 2),
    **_functions(torch, "sym_ite", 3),
}
"""Name -> function and the numbers of arguments it takes."""
NAMES_OF_FUNCTIONS: dict[Any, str] = {function: name for name, (function, _) in FUNCTIONS.items()}


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
    overloaded = getattr(getattr(torch.ops.aten, name), overload)
    if not isinstance(overloaded, OpOverload):
        raise StorageError(f"{text} is not an operator.")
    arguments = overloaded._schema.arguments
    refused = any(
        a.name == "filename" or any(t in str(a.type) for t in REFUSED_TYPES) for a in arguments
    )
    private = name.startswith("_") and not name.startswith("__") and not PRIVATE.fullmatch(name)
    if refused or private or overloaded._schema.is_mutable and "batch_norm" not in name:
        raise StorageError(
            f"The operator {text} changes its inputs, reads files or skips checks: a saved model "
            "may not hold it."
        )
    return overloaded


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
