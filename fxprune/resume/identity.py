"""Values as text that is equal for equal values, to tell whether a run is the same one."""

import hashlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor

HIDDEN = "sha256:"
"""What is too long to be shown is written as this and a digest."""
LONGEST = 120
"""Characters of two values that are shown beside each other."""
DEEPEST = 8
"""Nesting past which values are told by their types."""


def fingerprint(parts: Iterable[Any]) -> str:
    """A digest of tensors, arrays, bytes, and other values as `tell` writes them."""
    mark = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            part = part.detach().cpu()
            mark.update(f"{part.dtype}{tuple(part.shape)}".encode())
            mark.update(part.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(part, np.ndarray):
            mark.update(f"{part.dtype}{part.shape}".encode())
            mark.update(np.ascontiguousarray(part).tobytes())
        else:
            mark.update(part if isinstance(part, bytes) else tell(part).encode())
        mark.update(b"\0")
    return HIDDEN + mark.hexdigest()


def tell(value: Any, depth: int = 0) -> str:
    """A value as text: the same in another process, without the addresses of objects.

    Functions are told by their names and code.
    """
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    if isinstance(value, (Tensor, np.ndarray)):
        return fingerprint((value,))
    name = getattr(value, "__qualname__", type(value).__qualname__)
    if depth > DEEPEST:
        return str(name)
    if isinstance(value, Mapping):
        pairs = sorted((tell(k, depth + 1), tell(v, depth + 1)) for k, v in value.items())
        return "{" + ", ".join(f"{k}: {v}" for k, v in pairs) + "}"
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [tell(item, depth + 1) for item in value]
        return f"[{', '.join(sorted(items) if isinstance(value, (set, frozenset)) else items)}]"
    if isinstance(value, CodeType):
        # The names of files and the numbers of lines are no part of what a function does.
        return tell((value.co_code, value.co_names, value.co_consts), depth + 1)
    return f"{name}({_tell_object(value, depth + 1)})"


def _tell_object(value: Any, depth: int) -> str:
    """What an object of another kind holds."""
    if is_dataclass(value) and not isinstance(value, type):
        return tell({f.name: getattr(value, f.name) for f in fields(value)}, depth)
    if isinstance(value, partial):
        return tell((value.func, value.args, value.keywords), depth)
    if inspect.isfunction(value):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return tell((value.__code__, value.__defaults__, value.__kwdefaults__, cells), depth)
    if inspect.ismethod(value):
        return tell((value.__func__, value.__self__), depth)
    if isinstance(value, type):
        # torch.export's named axes are classes.
        return tell([getattr(value, name, None) for name in ("min", "max")], depth)
    return tell(getattr(value, "__dict__", {}), depth)


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What is not as it was, in words.

    Args:
        then, now: values as text, by what they are of. What only one has is not compared.
    """
    found = []
    for name, value in now.items():
        before = then.get(name, value)
        if before == value:
            continue
        shown = len(before + value) <= LONGEST and HIDDEN not in before + value
        found.append(f"{name} was {before} and is {value}" if shown else f"{name} changed")
    return found
