"""Activations of the calibration set: in memory up to a limit, past it on disk."""

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from weakref import finalize

import numpy as np
import torch
from torch import Tensor

SMALL = 1 << 16
"""Bytes below which a tensor is not worth a file."""


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

    def put(self, value: Any) -> Any:
        """Take a value; returns what `get` and `drop` want back. Only tensors count and spill."""
        if not isinstance(value, Tensor):
            return value
        value = value.detach()
        size = value.numel() * value.element_size()
        if self._held + size <= self._limit or size < SMALL or value.device.type != "cpu":
            self._held += size
            return value
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="fxprune-")
            finalize(self, self._folder.cleanup)
        self._number += 1
        path = Path(self._folder.name) / str(self._number)
        value.contiguous().view(torch.uint8 if value.dim() else value.dtype).numpy().tofile(path)
        return _OnDisk(path, tuple(value.shape), value.dtype)

    def empty(self, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
        """Room for a tensor that stays; None where the limit leaves none."""
        size = math.prod(shape) * like.element_size()
        if self._held + size > self._limit:
            return None
        self._held += size
        return like.new_empty(shape)

    def get(self, item: Any) -> Any:
        """The value of a handle."""
        if not isinstance(item, _OnDisk):
            return item
        return torch.from_numpy(np.fromfile(item.path, np.uint8)).view(item.dtype).view(item.shape)

    def drop(self, item: Any) -> None:
        """The value is no longer needed."""
        if isinstance(item, _OnDisk):
            item.path.unlink(missing_ok=True)
        elif isinstance(item, Tensor):
            self._held -= item.numel() * item.element_size()


class _OnDisk:
    def __init__(self, path: Path, shape: tuple[int, ...], dtype: torch.dtype):
        self.path, self.shape, self.dtype = path, shape, dtype
