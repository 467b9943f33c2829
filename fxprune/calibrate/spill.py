"""What is held of the calibration set: in memory up to a limit, past it on disk."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import finalize

import torch
from torch import Tensor

from fxprune.errors import StorageError
from fxprune.resume.folder import scratch_folder

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
        self._folder: Path | None = None
        self._number = 0
        self._packed = 0

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
        if size >= SMALL:
            self._number += 1
            return self._write(value, str(self._number))
        found = self._write(value, "packed", self._packed)
        self._packed += size
        return found

    def _write(self, value: Tensor, name: str, offset: int = 0) -> "_OnDisk":
        # As it lies in memory: products of the same numbers in another layout may round otherwise.
        strides = value.stride()
        order = tuple(sorted(range(value.dim()), key=lambda axis: -strides[axis]))
        flat = value.cpu().permute(order).contiguous()
        try:
            if self._folder is None:
                self._folder, clean = scratch_folder()
                finalize(self, clean)
            path = self._folder / name
            with path.open("ab") as file:
                file.write(flat.reshape(-1).view(torch.uint8).numpy().data)
        except OSError as error:
            raise StorageError(
                f"Calibration examples and activations past memory= cannot be written: {error}. "
                f"Make room in {self._folder or 'the folder of temporary files'}, name another "
                "folder by TMPDIR, or hold more in memory by memory=."
            ) from error
        return _OnDisk(path, offset, tuple(flat.shape), order, value.dtype, value.device)

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
        # torch's memory begins where its own tensors' does, which products may depend on, too.
        flat = torch.empty(math.prod(item.shape), dtype=item.dtype)
        with item.path.open("rb") as file:
            file.seek(item.offset)
            read = file.readinto(flat.view(torch.uint8).numpy().data)
        if read != flat.numel() * flat.element_size():
            raise StorageError(
                f"{item.path} is shorter than what was written there: another process changed it."
            )
        back = sorted(range(len(item.order)), key=item.order.__getitem__)
        return flat.view(item.shape).permute(back).to(item.device)

    def release(self, item: Any) -> None:
        """A value that was to be kept is no longer needed; what is on disk stays there."""
        if not isinstance(item, _OnDisk):
            self.drop(item)

    def drop(self, item: Any) -> None:
        """A value that was `put` is no longer needed."""
        if isinstance(item, _OnDisk):
            item.path.unlink(missing_ok=True)
        elif isinstance(item, _Elsewhere):
            self._held -= _bytes(item.value)
        elif isinstance(item, Tensor) and item.device.type == "cpu":
            self._held -= _bytes(item)


@dataclass(frozen=True)
class _OnDisk:
    """A tensor in a file, from a byte on; its axes in the order in which they lie in memory."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    order: tuple[int, ...]
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
    if device.type != "cuda":
        return True
    free, total = torch.cuda.mem_get_info(device)
    return free > max(SPARE * size, FREE * total)
