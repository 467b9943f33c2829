"""A copy of the caller's model, to be traced and changed in its stead."""

import copy
import warnings
from typing import TypeVar

from torch import Tensor, nn

from fxprune.errors import CaptureError

M = TypeVar("M", bound=nn.Module)


def copy_model(model: M) -> M:
    """A deep copy that shares no tensor with the model.

    Tensors that a model computed and keeps (old-style weight norm's weight), which PyTorch refuses
    to copy, are copied as values.

    Raises:
        CaptureError: something in the model cannot be copied; says what.
    """
    kept = (
        value
        for module in model.modules()
        for value in (*vars(module).values(), *module._buffers.values())
        if isinstance(value, Tensor) and not value.is_leaf
    )
    memo = {id(value): value.detach().clone() for value in kept}
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
