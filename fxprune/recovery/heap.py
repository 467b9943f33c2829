"""What tensors free stays with the process while it trains.

glibc maps a tensor of more than 32 MB by itself and unmaps it as soon as it is free, so that every
step on large images asks the kernel for all of its memory anew, and waits until it has been zeroed:
a third of a step, on some machines (docs/recover.md).
"""

import ctypes
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Numbers of glibc's settings (malloc.h)."""
NEVER, LARGEST, MOST = -1, 2**25, 2**16
"""Never to give memory back; and what glibc comes to by itself in a process that frees tensors: the
size in bytes from which on they are mapped by themselves, and how many at most.
"""


@contextmanager
def memory_kept(device: torch.device) -> Iterator[None]:
    """Keep what is freed, and give it back at the end.

    Args:
        device: that trains; nothing is done where it is no CPU, where the C library is another one,
            or where the process was started with settings of its own.
    """
    setting = _setting() if device.type == "cpu" else None
    if setting is None:
        yield
        return
    setting(MMAP_MAX, 0)
    setting(TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        setting(MMAP_MAX, MOST)
        setting(MMAP_THRESHOLD, LARGEST)
        setting(TRIM_THRESHOLD, 2 * LARGEST)
        ctypes.CDLL(None).malloc_trim(0)


def _setting() -> Callable[[int, int], int] | None:
    """glibc's mallopt."""
    own = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if own or platform.libc_ver()[0] != "glibc":
        return None
    found: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    return found
