"""Files that are there whole or not at all, and folders that one process has at a time."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from fxprune.errors import StorageError

PART, LOCK = ".part", "lock"
"""Suffix of files that are not complete yet; the file that a process holds while it works."""
_held = set[Path]()
"""Folders that this process has: a process is not kept out by locks of its own."""


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path to write to, which becomes `target` once what is done with it is done.

    A process that is killed, at any moment, leaves the file as it was before or as it is
    afterwards; after an error nothing is left of the new one.

    Raises:
        OSError: the file cannot be written.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}{PART}")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    _sync(target.parent)


def _sync(folder: Path) -> None:
    """A new name outlives a loss of power, where the system knows how to say so."""
    with suppress(OSError, AttributeError):
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """A folder, with every other process kept out of it until the end; however this one ends.

    Raises:
        StorageError: another one has it.
    """
    own = folder.resolve()
    if own in _held:
        raise StorageError(f"{folder} is in use: another call of this process works there.")
    with (folder / LOCK).open("a+") as file:
        if not _lock(file):
            raise StorageError(f"{folder} is in use: {_holder(file)} works there.")
        _held.add(own)
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()}")
            file.flush()
            yield
        finally:
            _held.discard(own)


def _holder(file: IO[str]) -> str:
    """Who says that the folder is theirs."""
    try:
        file.seek(0)
        return file.read(80) or "another process"
    except OSError:
        return "another process"


if sys.platform == "win32":
    import msvcrt

    BEHIND = 1 << 20
    """A byte that is locked, far behind those that are read."""

    def _lock(file: IO[str]) -> bool:
        """Whether the file could be locked; the lock goes with the process."""
        file.seek(BEHIND)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(file: IO[str]) -> bool:
        """Whether the file could be locked; the lock goes with the process, and is not handed on to
        its children.
        """
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True
