"""A copy of the caller's model, to be traced, run and changed in its stead."""

import copy
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fxprune.errors import CaptureError
from fxprune.graph.tensors import alias

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")


def copy_model(model: M, shared: bool = False) -> M:
    """A deep copy that shares no tensor with the model.

    Tensors that a model computed and keeps (old-style weight norm's weight), which PyTorch refuses
    to copy, are copied as values.

    Args:
        model: any module.
        shared: the copy's parameters are tensors of its own that lie where the model's lie. Whoever
            has it must not write to them.

    Raises:
        CaptureError: something in the model cannot be copied; says what.
    """
    kept = (
        value
        for module in model.modules()
        for value in (*vars(module).values(), *module._buffers.values())
        if isinstance(value, Tensor) and not value.is_leaf
    )
    memo: dict[int, Any] = {id(value): value.detach().clone() for value in kept}
    if shared:
        memo |= {id(p): alias(p) for p in model.parameters() if _lies_as_a_copy_would(p)}
    try:
        with warnings.catch_warnings():
            # torch's own pytree specs warn about themselves when copied.
            warnings.simplefilter("ignore", FutureWarning)
            return copy.deepcopy(model, memo)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise CaptureError(
            f"{type(model).__name__} cannot be copied (copy.deepcopy: {type(error).__name__}: "
            f"{first}), and fxprune never works on the caller's own model. Take what cannot be "
            "copied (locks, files, generators) out of the module while it is compressed, or give "
            "its class a __deepcopy__."
        ) from error


def run_copy(model: M, run: Callable[[M], T]) -> T:
    """What a function gives that runs a copy of the model, in eval mode.

    The copy lies where the model lies, however large that is; of one that writes to its own weights
    as it runs (an embedding with max_norm), or fails, another copy is made, and run again.

    Args:
        model: any module.
        run: takes the copy.

    Raises:
        CaptureError: the model cannot be copied.
    """
    own, guard = copy_model(model, shared=True).eval(), _Unwritten(model)
    with suppress(Exception):  # the second try tells
        with guard:
            found = run(own)
        if not guard.written:
            return found
    return run(copy_model(model).eval())


def _lies_as_a_copy_would(parameter: nn.Parameter) -> bool:
    """Whether a copy would have the same strides: what is computed of it is then the same."""
    plain = type(parameter) is nn.Parameter and parameter.layout is torch.strided
    if not plain or parameter.is_inference():
        return False
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    last = formats.get(parameter.dim())
    return parameter.is_contiguous() or (
        last is not None and parameter.is_contiguous(memory_format=last)
    )


class _Written(Exception):
    """A weight would have been written to."""


class _Unwritten(TorchDispatchMode):
    """Refuses operators that write to the parameters of a model, before they do.

    Args:
        model: whose.

    Attributes:
        written: whether it refused any; the model may have gone on.
    """

    def __init__(self, model: nn.Module):
        super().__init__()  # type: ignore[no-untyped-call]
        self.written = False
        self._held = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for place, argument in enumerate(func._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    given = args[place] if place < len(args) else kwargs.get(argument.name)
                    if any(map(self._is_held, pytree.tree_leaves(given))):
                        self.written = True
                        raise _Written
        return func(*args, **kwargs)

    def _is_held(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.untyped_storage().data_ptr() in self._held
