"""What is held of the calibration set, and of what is known from it: in memory up to a limit, past
it on disk (`fxprune.calibrate.files`).
"""

import math
from dataclasses import dataclass
from typing import Any
from weakref import finalize

import torch
from torch import Tensor

from fxprune.calibrate.files import Files, OnDisk

SMALL = 1 << 16
"""Bytes below which a tensor is not worth a file of its own."""
TINY = 1 << 10
"""Bytes below which a tensor is not worth a place in a file either."""
INPUTS = 0.5
"""Share of the limit that kept inputs may take: they are read a few times only, what is recorded at
every fit.
"""
SPARE, FREE = 4, 0.5
"""A tensor stays on its device where that has this many times its size left, and this share of all
its memory: networks need the rest to run, and other processes may be there.
"""


class Spill:
    """Holds tensors; those past `limit` bytes go to files that live as long as the store.

    Args:
        limit: bytes kept in memory.
    """

    def __init__(self, limit: float):
        self._limit = limit
        self._held = 0
        self._files = Files()

    def put(self, value: Any) -> Any:
        """Take a value; returns what `get` and `drop` want back.

        Only tensors count and spill; those of a device without much room come to the CPU, and
        `get` brings them back.
        """
        if not isinstance(value, Tensor):
            return value
        value = value.detach()
        size = _bytes(value)
        if value.device.type != "cpu" and _room(value.device, size):
            return value
        if self._held + size <= self._limit or size < SMALL:
            self._held += size
            return value if value.device.type == "cpu" else _Elsewhere(value.cpu(), value.device)
        return self._files.write(value)

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
        here = value.device.type == "cpu"
        if not here and _room(value.device, size):
            return value.clone() if copied else value
        if self._held + size <= self._limit * INPUTS or size < TINY:
            self._held += size
            return (
                (value.clone() if copied else value)
                if here
                else (_Elsewhere(value.cpu(), value.device))
            )
        return self._files.write(value) if size >= SMALL else self._files.pack(value)

    def empty(self, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
        """Room for a tensor that stays, mapped to a file past the limit; None on a device without
        much room.

        Raises:
            StorageError: the disk is full.
        """
        size = math.prod(shape) * like.element_size()
        if like.device.type != "cpu":
            return like.new_empty(shape) if _room(like.device, size) else None
        if self._takes(size):
            return self._counted(like.new_empty(shape), size)
        return self._files.mapped(shape, like.dtype)

    def settle(self, value: Tensor) -> Tensor:
        """A tensor that stays: the very same where there is room for it, else a copy on the CPU, or
        one that is mapped to a file.

        Raises:
            StorageError: the disk is full.
        """
        size = _bytes(value)
        if value.device.type != "cpu":
            if _room(value.device, size):
                return value
            value = value.cpu()
        if self._takes(size):
            return self._counted(value, size)
        return self._files.mapped(tuple(value.shape), value.dtype).copy_(value)

    def _takes(self, size: int) -> bool:
        return self._held + size <= self._limit or size < SMALL

    def _counted(self, value: Tensor, size: int) -> Tensor:
        """Count a value as long as anybody has its memory: the tensor itself may go before an array
        or a part of it.
        """
        self._held += size
        finalize(value.untyped_storage(), self._release, size)
        return value

    def _release(self, size: int) -> None:
        self._held -= size

    def get(self, item: Any) -> Any:
        """The value of a handle."""
        if isinstance(item, _Elsewhere):
            return item.value.to(item.device)
        return self._files.read(item) if isinstance(item, OnDisk) else item

    def release(self, item: Any) -> None:
        """A value that was to be kept is no longer needed; what is on disk stays there."""
        if not isinstance(item, OnDisk):
            self.drop(item)

    def drop(self, item: Any) -> None:
        """A value that was `put` is no longer needed."""
        if isinstance(item, OnDisk):
            self._files.drop(item)
        elif isinstance(item, _Elsewhere):
            self._held -= _bytes(item.value)
        elif isinstance(item, Tensor) and item.device.type == "cpu":
            self._held -= _bytes(item)


@dataclass(frozen=True)
class _Elsewhere:
    """A tensor that waits on the CPU, and the device it belongs to."""

    value: Tensor
    device: torch.device


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _room(device: torch.device, size: int) -> bool:
    """Whether a device has room for as much that stays."""
    if device.type != "cuda":
        return True
    free, total = torch.cuda.mem_get_info(device)
    return free > max(SPARE * size, FREE * total)
