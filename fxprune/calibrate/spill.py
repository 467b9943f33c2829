"""What is held of the calibration set, and of what is known from it: in memory up to a limit, past
it on disk.

What is put away whole and comes back whole has a file, and what is worked on where it lies (tables
that fill up, sums) is mapped to one: the system reads its pages when they are touched, and takes
them back when it needs the room.
"""

import errno
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn
from weakref import finalize

import torch
from torch import Tensor

from fxprune.errors import StorageError
from fxprune.resume.folder import scratch_folder

SMALL = 1 << 16
"""Bytes below which a tensor is not worth a file of its own."""
TINY = 1 << 10
"""Bytes below which a tensor is not worth a place in a file either."""
BLOCK = 1 << 20
"""Bytes of zeros that are written at a time."""
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
            path = self._path(name)
            with path.open("ab") as file:
                file.write(flat.reshape(-1).view(torch.uint8).numpy().data)
        except OSError as error:
            self._fail(error)
        return _OnDisk(path, offset, tuple(flat.shape), order, value.dtype, value.device)

    def _path(self, name: str) -> Path:
        """Of a file of the store."""
        if self._folder is None:
            self._folder, clean = scratch_folder()
            finalize(self, clean)
        return self._folder / name

    def _fail(self, error: Exception) -> NoReturn:
        raise StorageError(
            "Calibration examples, activations and statistics past memory= cannot be written: "
            f"{error}. Make room in {self._folder or 'the folder of temporary files'}, name "
            "another folder by TMPDIR, or hold more in memory by memory=."
        ) from error

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
        return self._mapped(shape, like.dtype)

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
        return self._mapped(tuple(value.shape), value.dtype).copy_(value)

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

    def _mapped(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Room in a file, which has its place on the disk: a full one is no fault of a page."""
        self._number += 1
        count = math.prod(shape)
        try:
            path = self._path(str(self._number))
            try:
                with path.open("wb") as file:
                    _reserve(file, count * dtype.itemsize)
                flat = torch.from_file(str(path), shared=True, size=count, dtype=dtype)
            finally:
                # The mapping keeps what has no name any more, however this process ends.
                with suppress(OSError):
                    path.unlink()
        except (OSError, RuntimeError) as error:
            self._fail(error)
        return flat.view(shape)

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


def _reserve(file: IO[bytes], size: int) -> None:
    """Take so many bytes of the disk, which read as zeros.

    Raises:
        OSError: there are not as many.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
    for start in range(0, size, BLOCK):
        file.write(bytes(min(BLOCK, size - start)))


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _room(device: torch.device, size: int) -> bool:
    """Whether a device has room for as much that stays."""
    if device.type != "cuda":
        return True
    free, total = torch.cuda.mem_get_info(device)
    return free > max(SPARE * size, FREE * total)
