"""Frozen values as JSON beside tensors, and back as what they are declared to be.

Nothing in a file says which class to make: the reader does, by the type it asks for.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

UNKEPT = {"kept": False}
"""Metadata of a field that is not written, and takes its default when the rest is read."""
TENSOR = "tensor"
"""Marks the place of a tensor: no field has this name."""


def encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A nest of dataclasses, containers, numbers, text, tensors and arrays as JSON.

    Args:
        value: to be written.
        tensors: those of the value are added, contiguous and on the CPU.

    Raises:
        TypeError: it holds anything else.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (Tensor, np.ndarray)):
        return _encode_tensor(value, tensors)
    if is_dataclass(value) and not isinstance(value, type):
        kept = [f.name for f in fields(value) if f.metadata != UNKEPT]
        return {name: encode(getattr(value, name), tensors) for name in kept}
    if isinstance(value, Mapping):
        return [[encode(k, tensors), encode(v, tensors)] for k, v in value.items()]
    if isinstance(value, (tuple, list)):
        return [encode(item, tensors) for item in value]
    raise TypeError(f"a {type(value).__name__} cannot be kept")


def _encode_tensor(value: Tensor | np.ndarray, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Where a tensor is, on which device, and how its axes lie in memory: products of the same
    numbers in another layout may round differently.
    """
    tensor = value.detach() if isinstance(value, Tensor) else _from_array(value)
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda axis: -strides[axis])
    if tensor.is_contiguous() or not tensor.permute(order).is_contiguous():
        order = list(range(tensor.dim()))
    name = str(len(tensors))
    tensors[name] = tensor.permute(order).cpu().contiguous()
    return {TENSOR: name, "order": order, "device": str(tensor.device)}


def _from_array(value: np.ndarray) -> Tensor:
    """Negative strides, which tensors have not, and read-only memory are copied."""
    usable = value.flags.writeable and all(step >= 0 for step in value.strides)
    return torch.from_numpy(value if usable else np.array(value, order="C"))


def on_device(value: Any, device: str) -> Any:
    """What `encode` made of a value, for another process: tensors that were on an accelerator are
    on this device.
    """
    if isinstance(value, list):
        return [on_device(item, device) for item in value]
    if not isinstance(value, dict):
        return value
    if TENSOR in value:
        return value if value["device"] == "cpu" else {**value, "device": device}
    return {name: on_device(item, device) for name, item in value.items()}


def decode(kind: Any, value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `encode` made of a value, as one of a kind.

    Args:
        kind: a class, a dataclass, a container of kinds, a choice of a kind and None, or Any for
            a tensor, a number or text.
        value, tensors: what was made of it.

    Raises:
        TypeError, ValueError, KeyError: it is of another kind.
    """
    if kind is Any:
        kind = Tensor if isinstance(value, dict) else type(value)
    origin, of = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        (only,) = (k for k in of if k is not type(None))
        return None if value is None else decode(only, value, tensors)
    if kind is Tensor or kind is np.ndarray or origin is np.ndarray:
        return _decode_tensor(kind, value, tensors)
    if isinstance(origin, type) and isinstance(value, list):
        return _decode_container(origin, of, value, tensors)
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        return kind(**{k: decode(hints[k], v, tensors) for k, v in value.items()})
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise TypeError(f"a {type(value).__name__} is no {kind}")


def _decode_container(
    origin: type, of: tuple[Any, ...], value: list[Any], tensors: Mapping[str, Tensor]
) -> Any:
    if issubclass(origin, Mapping):
        return {decode(of[0], k, tensors): decode(of[1], v, tensors) for k, v in value}
    if origin is list:
        return [decode(of[0], item, tensors) for item in value]
    if origin is tuple:
        kinds = of[:1] * len(value) if of[1:] == (...,) else of
        return tuple(decode(k, v, tensors) for k, v in zip(kinds, value, strict=True))
    raise TypeError(f"a list is no {origin.__name__}")


def _decode_tensor(kind: Any, value: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    order = value["order"]
    back = sorted(range(len(order)), key=order.__getitem__)
    tensor = tensors[value[TENSOR]].permute(back)
    return tensor.to(value["device"]) if kind is Tensor else tensor.numpy()
