"""Arguments of a graph as JSON and back: constants, nodes, and nests of them.

What JSON has no type for becomes an object with one tagged entry.
"""

import math
import re
from collections import OrderedDict
from typing import Any

import torch
from torch.fx import Node

from fxprune.errors import StorageError

MOST_NESTED = 16
"""Deepest nesting of containers in an argument."""
DEVICE = re.compile(r"[a-z]{1,16}(:\d{1,3})?", re.ASCII)
DTYPES = {
    str(v).removeprefix("torch."): v for v in vars(torch).values() if isinstance(v, torch.dtype)
}
FORMATS = {
    str(v).removeprefix("torch."): v
    for v in vars(torch).values()
    if isinstance(v, torch.memory_format)
}
LAYOUTS = {
    str(v).removeprefix("torch."): v for v in vars(torch).values() if isinstance(v, torch.layout)
}
TAGGED: tuple[tuple[str, type, dict[str, Any]], ...] = (
    ("dtype", torch.dtype, DTYPES),
    ("memory_format", torch.memory_format, FORMATS),
    ("layout", torch.layout, LAYOUTS),
)


def encode(value: Any) -> Any:
    """A constant, a node, or a nest of them, as JSON.

    Raises:
        StorageError: the type is none that a graph may hold.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list):
        return [encode(v) for v in value]
    tagged = _encode_constant(value) or _encode_container(value)
    if tagged is None:
        raise StorageError(
            f"A {type(value).__name__} in the graph cannot be saved. Save the state dict, or "
            "compress the part without it."
        )
    return tagged


def _encode_constant(value: Any) -> dict[str, Any] | None:
    """The tagged entry of a node or a single constant; None for anything else."""
    if isinstance(value, float):
        return {"float": repr(value)}
    if isinstance(value, complex) and math.isfinite(value.real) and math.isfinite(value.imag):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if value is Ellipsis:
        return {"ellipsis": None}
    for tag, kind, _ in TAGGED:
        if isinstance(value, kind):
            return {tag: str(value).removeprefix("torch.")}
    return None


def _encode_container(value: Any) -> dict[str, Any] | None:
    """The tagged entry of a container other than a list; None for anything else."""
    if isinstance(value, slice):
        return {"slice": [encode(v) for v in (value.start, value.stop, value.step)]}
    if isinstance(value, dict):
        tag = "ordered" if isinstance(value, OrderedDict) else "dict"
        return {tag: [[encode(k), encode(v)] for k, v in value.items()]}
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return {"tuple": [encode(v) for v in value]}
    return None


_NOTHING = object()
"""Stands for no value; None is one."""


class Decoder:
    """`encode` backwards, with the nodes known so far.

    Args:
        nodes: by name.
        saved, device: constants on the device the model was saved from are put on this one.
    """

    def __init__(self, nodes: dict[str, Node], saved: torch.device, device: torch.device):
        self.nodes, self._saved, self._device = nodes, saved, device

    def __call__(self, value: Any, depth: int = 0) -> Any:
        """The value that `encode` wrote.

        Raises:
            StorageError: it wrote no such thing.
        """
        if depth > MOST_NESTED:
            raise StorageError("An argument in the file's graph is nested too deep.")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise StorageError("A number in the file's graph does not fit 64 bits.")
        if (
            value is None
            or isinstance(value, (bool, int, str))
            or isinstance(value, float)
            and math.isfinite(value)
        ):
            return value
        if isinstance(value, list):
            return [self(v, depth + 1) for v in value]
        if isinstance(value, dict) and len(value) == 1:
            ((tag, content),) = value.items()
            return self._tagged(tag, content, depth)
        raise StorageError(f"{str(value)[:80]} in the file's graph is not a value.")

    def _tagged(self, tag: str, content: Any, depth: int) -> Any:
        """The value of one tagged entry."""
        if tag == "ellipsis" and content is None:
            return Ellipsis
        result = _NOTHING
        if isinstance(content, list):
            result = self._container(tag, content, depth)
        elif isinstance(content, str):
            result = self._constant(tag, content)
        if result is _NOTHING:
            raise StorageError(
                f"{str({tag: content})[:80]} in the file's graph is not a value, or names a node "
                "that comes later."
            )
        return result

    def _container(self, tag: str, content: list[Any], depth: int) -> Any:
        if tag == "tuple":
            return tuple(self(v, depth + 1) for v in content)
        if tag in ("dict", "ordered") and all(
            isinstance(pair, list) and len(pair) == 2 for pair in content
        ):
            pairs = [(self(k, depth + 1), self(v, depth + 1)) for k, v in content]
            if all(isinstance(k, (str, int)) for k, _ in pairs):
                return dict(pairs) if tag == "dict" else OrderedDict(pairs)
        if tag == "slice" and len(content) == 3:
            return slice(*(self(v, depth + 1) for v in content))
        if (
            tag == "complex"
            and len(content) == 2
            and all(isinstance(v, (int, float)) and math.isfinite(v) for v in content)
        ):
            return complex(*content)
        return _NOTHING

    def _constant(self, tag: str, text: str) -> Any:
        if tag == "node":
            return self.nodes.get(text, _NOTHING)
        if tag == "float" and text in ("inf", "-inf", "nan"):
            return float(text)
        if tag == "device" and DEVICE.fullmatch(text):
            device = torch.device(text)
            return self._device if device.type == self._saved.type else device
        for name, _, table in TAGGED:
            if tag == name:
                return table.get(text, _NOTHING)
        return _NOTHING
