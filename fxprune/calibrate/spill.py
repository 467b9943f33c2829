"""What is held of the calibration set: in memory up to a limit, past it on disk."""

import math
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from weakref import finalize

import numpy as np
import torch
from torch import Tensor

SMALL = 1 << 16
"""Bytes below which a tensor is not worth a file of its own."""
TINY = 1 << 10
"""Bytes below which a tensor is not worth a place in a file either."""
INPUTS = 0.5
"""Share of the limit that kept inputs may take: they are read a few times only, what is recorded at
every fit.
"""
SPARE = 4
"""A tensor stays on its device where that has this many times its size left."""


class Spill:
    """Holds tensors; those past `limit` bytes go to files that live as long as the store.

    Args:
        limit: bytes kept in memory.
    """

    def __init__(self, limit: float):
        self._limit = limit
        self._held = 0
        self._folder: TemporaryDirectory[str] | None = None
        self._number = 0
        self._packed = 0

    def put(self, value: Any) -> Any:
        """Take a value; returns what `get` and `drop` want back. Only tensors count and spill."""
        if not isinstance(value, Tensor):
            return value
        value = value.detach()
        size = _bytes(value)
        if self._held + size <= self._limit or size < SMALL or value.device.type != "cpu":
            self._held += size
            return value
        self._number += 1
        return self._write(value, str(self._number))

    def keep(self, value: Any, copied: bool = True) -> Any:
        """Take a value that stays as long as the store; returns what `get` wants back.

        Args:
            value: only tensors count and spill. Small ones share a file, and those of a device
                without much room come to the CPU; `get` brings them back.
            copied: the caller may change the tensor afterwards.
        """
        if not isinstance(value, Tensor):
            return value
        value, size = value.detach(), _bytes(value)
        fits = self._held + size <= self._limit * INPUTS or size < TINY
        if fits and _room(value.device, size):
            self._held += size
            return value.clone() if copied else value
        if fits:
            self._held += size
            return _Elsewhere(value.cpu(), value.device)
        if size >= SMALL:
            self._number += 1
            return self._write(value, str(self._number))
        found = self._write(value, "packed", self._packed)
        self._packed += size
        return found

    def _write(self, value: Tensor, name: str, offset: int = 0) -> "_OnDisk":
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="fxprune-")
            finalize(self, self._folder.cleanup)
        path, flat = Path(self._folder.name) / name, value.cpu().contiguous()
        with path.open("ab") as file:
            flat.view(torch.uint8 if value.dim() else value.dtype).numpy().tofile(file)
        return _OnDisk(path, offset, tuple(value.shape), value.dtype, value.device)

    def empty(self, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
        """Room for a tensor that stays; None where the limit leaves none."""
        size = math.prod(shape) * like.element_size()
        if self._held + size > self._limit:
            return None
        self._held += size
        return like.new_empty(shape)

    def get(self, item: Any) -> Any:
        """The value of a handle."""
        if isinstance(item, _Elsewhere):
            return item.value.to(item.device)
        if not isinstance(item, _OnDisk):
            return item
        size = math.prod(item.shape) * item.dtype.itemsize
        flat = torch.from_numpy(np.fromfile(item.path, np.uint8, size, offset=item.offset))
        return flat.view(item.dtype).view(item.shape).to(item.device)

    def release(self, item: Any) -> None:
        """A value that was to be kept is no longer needed; what is on disk stays there."""
        if isinstance(item, Tensor):
            self._held -= _bytes(item)

    def drop(self, item: Any) -> None:
        """A value that was `put` is no longer needed."""
        if isinstance(item, _OnDisk):
            item.path.unlink(missing_ok=True)
        elif isinstance(item, Tensor):
            self._held -= _bytes(item)


@dataclass(frozen=True)
class _OnDisk:
    """A tensor in a file, from a byte on."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class _Elsewhere:
    """A tensor that waits on the CPU, and the device it belongs to."""

    value: Tensor
    device: torch.device


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _room(device: torch.device, size: int) -> bool:
    """Whether a device has room for as much that stays."""
    return device.type != "cuda" or torch.cuda.mem_get_info(device)[0] > SPARE * size
