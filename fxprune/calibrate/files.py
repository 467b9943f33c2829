"""Tensors in files: what is put away whole and comes back whole has a file, and what is worked on
where it lies (tables that fill up, sums) is mapped to one: the system reads its pages when they are
touched, and takes them back when it needs the room.

A file whose tensor is dropped is written again by the next one of about its size: its pages are
there, where making those of a new file takes several times as long as filling them.
"""

import errno
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn
from weakref import finalize

import torch
from torch import Tensor

from fxprune.errors import StorageError
from fxprune.resume.folder import scratch_folder

BLOCK = 1 << 20
"""Bytes of zeros that are written at a time."""
FIT = 2
"""A file is written again by what takes between this fraction of its size and so many times it."""
SPARE = 0.25
"""Files that nobody has may take this share of those that somebody has, beside the last one."""
PACKED = "packed"
"""The file that small tensors share."""


@dataclass(frozen=True, eq=False)
class OnDisk:
    """A tensor in a file.

    Attributes:
        path, offset: where it begins.
        size: bytes of the file, where it has one of its own.
        shape, order: of what lies there, its axes in the order in which they lie in memory.
        dtype, device: of the tensor.
    """

    path: Path
    offset: int
    size: int
    shape: tuple[int, ...]
    order: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class Files:
    """A folder of files that live as long as this."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._number = self._packed = 0
        self._taken, self._free = set[OnDisk](), list[tuple[int, Path]]()

    def write(self, value: Tensor) -> OnDisk:
        """Put a tensor into a file of its own.

        Raises:
            StorageError: the disk is full.
        """
        data, shape, order = _laid_out(value)
        again = self._take(len(data))
        try:
            size, path = again or (0, self._new())
            mode = "r+b" if again else "wb"
            try:
                _fill(path, mode, data)
            except OSError:
                if not self._make_room():
                    raise
                _fill(path, mode, data)
        except OSError as error:
            self._fail(error)
        size = max(size, len(data))
        found = OnDisk(path, 0, size, shape, order, value.dtype, value.device)
        self._taken.add(found)
        return found

    def pack(self, value: Tensor) -> OnDisk:
        """Put a small tensor, which stays, behind the others.

        Raises:
            StorageError: the disk is full.
        """
        data, shape, order = _laid_out(value)
        try:
            path = self._path(PACKED)
            _fill(path, "ab", data)
        except OSError as error:
            self._fail(error)
        found = OnDisk(path, self._packed, 0, shape, order, value.dtype, value.device)
        self._packed += len(data)
        return found

    def read(self, item: OnDisk) -> Tensor:
        """The tensor, laid out as it was.

        Raises:
            StorageError: the file was changed.
        """
        # torch's memory begins where its own tensors' does, which products may depend on, too.
        flat = torch.empty(math.prod(item.shape), dtype=item.dtype)
        with item.path.open("rb") as file:
            file.seek(item.offset)
            read = file.readinto(_bytes(flat))
        if read != flat.numel() * flat.element_size():
            raise StorageError(
                f"{item.path} is shorter than what was written there: another process changed it."
            )
        back = sorted(range(len(item.order)), key=item.order.__getitem__)
        return flat.view(item.shape).permute(back).to(item.device)

    def drop(self, item: OnDisk) -> None:
        """Let another tensor have the file of one that has its own."""
        self._taken.remove(item)  # once: then it is another's
        self._free.append((item.size, item.path))
        most = SPARE * sum(other.size for other in self._taken)
        while len(self._free) > 1 and sum(size for size, _ in self._free) > most:
            self._free.pop(0)[1].unlink(missing_ok=True)

    def mapped(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Room in a file, which has its place on the disk: a full one is no fault of a page.

        Raises:
            StorageError: the disk is full.
        """
        count = math.prod(shape)
        try:
            path = self._new()
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

    def _take(self, size: int) -> tuple[int, Path] | None:
        """A file that nobody has, to be written again, and its size: the least that has as many
        bytes, else the one that grows least; None where none is about as large.
        """
        fitting = [one for one in self._free if size <= FIT * one[0] and one[0] <= FIT * size]
        if not fitting:
            return None
        enough = [one for one in fitting if one[0] >= size]
        found = min(enough) if enough else max(fitting)
        self._free.remove(found)
        return found

    def _make_room(self) -> bool:
        """Remove the files that nobody has; whether there are any."""
        found, self._free = self._free, []
        for _, path in found:
            path.unlink(missing_ok=True)
        return bool(found)

    def _new(self) -> Path:
        self._number += 1
        return self._path(str(self._number))

    def _path(self, name: str) -> Path:
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


def _laid_out(value: Tensor) -> tuple[memoryview, tuple[int, ...], tuple[int, ...]]:
    """A tensor's bytes as they lie in memory, on the CPU, with the shape and the order of its axes
    there: products of the same numbers in another layout may round otherwise.
    """
    strides = value.stride()
    order = tuple(sorted(range(value.dim()), key=lambda axis: -strides[axis]))
    flat = value.cpu().permute(order).contiguous()
    return _bytes(flat), tuple(flat.shape), order


def _bytes(flat: Tensor) -> memoryview:
    return flat.reshape(-1).view(torch.uint8).numpy().data


def _fill(path: Path, mode: str, data: memoryview) -> None:
    with path.open(mode) as file:
        file.write(data)


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
