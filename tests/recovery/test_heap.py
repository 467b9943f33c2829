"""Memory that is freed while a model trains is not asked for again."""

import os
import platform
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

from fxprune.recovery.heap import memory_kept

CPU = torch.device("cpu")
MAPPED = 24 * 2**20
"""Numbers of a tensor that glibc maps by itself."""


def faults() -> int:
    """Pages that the kernel hands out for four tensors, one after the other, once one was freed."""
    import resource  # not on Windows

    torch.empty(MAPPED).fill_(1.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.empty(MAPPED).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    """Pages that the process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])


def measured(settings: dict[str, str]) -> dict[str, int]:
    """Pages in a process of its own, in whose first thread this runs."""
    os.environ.update(settings)
    found = {"before": faults()}
    with memory_kept(CPU):
        found |= {"kept": faults(), "while": resident()}
    found |= {"at the end": resident(), "after": faults()}
    with memory_kept(torch.device("cuda")):
        found["device"] = faults()
    return found


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_not_asked_for_again() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as processes:
        found = processes.submit(measured, {}).result()
        own = processes.submit(measured, {"MALLOC_TRIM_THRESHOLD_": "1000000"}).result()
    whole = found["before"]
    assert found["kept"] < whole / 2
    assert found["while"] - found["at the end"] > whole / 5, "not given back"
    assert min(found["after"], found["device"]) > 0.9 * whole, "kept for longer than asked"
    assert own["kept"] > 0.9 * whole, "settings of the process come first"
