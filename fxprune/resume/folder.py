"""Files that are there whole or not at all, and folders that one process has at a time."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from fxprune.errors import StorageError

PART, LOCK = ".part", "lock"
"""Suffix of files that are not complete yet; the file that a process holds while it works."""
SCRATCH, NEW = "fxprune-scratch-", 60.0
"""How scratch folders begin, and seconds for which one may not have been taken yet."""
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


def make_folder(path: Any) -> Path:
    """What `checkpoint=` names.

    Raises:
        StorageError: it is no folder, and none can be made.
    """
    try:
        if not str(path):
            raise ValueError("it has no name")
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, TypeError, ValueError) as error:
        raise StorageError(
            f"checkpoint={path!r} is no folder that can be written to: {error}."
        ) from error
    return folder


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


def scratch_folder() -> tuple[Path, Callable[[], None]]:
    """A folder for files that this process needs as long as it lives, and what removes it. Those of
    processes that were killed are removed first.

    Raises:
        OSError: it cannot be made.
    """
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{SCRATCH}*"):
        _remove_left(left)
    stack = ExitStack()
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=parent))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    stack.enter_context(alone(folder))
    return folder, stack.close


def _remove_left(folder: Path) -> None:
    """Remove a scratch folder that no process has; a new one may not have been taken yet."""
    with suppress(OSError, StorageError):
        if time.time() - folder.stat().st_mtime > NEW and (folder / LOCK).is_file():
            with alone(folder):
                shutil.rmtree(folder, ignore_errors=True)


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
