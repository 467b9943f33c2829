"""Measured time and memory of calls.

Calls take turns, so that a slow moment of the machine hits all of them.
"""

import os
import platform
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from fxprune.timing.workload import Call


def time_in_turns(
    calls: Sequence[Call], rounds: int, seconds: float, clock: Callable[[], float] | None = None
) -> np.ndarray:
    """Time calls in turn.

    Args:
        calls: warm.
        rounds: every call is timed once in each, in alternating order.
        seconds: that one turn lasts about, at least one call.
        clock: wall time by default, once a GPU is done. With one thread on a busy CPU,
            time.process_time leaves out what other jobs take.

    Returns:
        (rounds, calls) float64, seconds per call; a GPU is waited for by torch.utils.benchmark.
    """
    from torch.utils.benchmark import Timer  # loads setuptools
    from torch.utils.benchmark.utils.timer import timer

    threads = torch.get_num_threads()
    timers = [
        Timer("call()", timer=clock or timer, globals={"call": call}, num_threads=threads)
        for call in calls
    ]
    numbers = [max(1, round(seconds / max(t.timeit(1).mean, 1e-9))) for t in timers]
    times = np.empty((rounds, len(calls)))
    order = list(range(len(calls)))
    for turn in times:
        for i in order:
            turn[i] = timers[i].timeit(numbers[i]).mean
        order.reverse()
    return times


def measure_peak_memory(call: Call, device: torch.device) -> int:
    """Most bytes that one call holds at a time beyond what lives before it: activations and
    workspaces that torch allocates.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    # Kineto writes a line on stderr for every start and stop otherwise.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    records: Any = profiled.profiler.kineto_results.events()
    allocations = [
        (e.start_ns(), e.nbytes())
        for e in records
        if e.name() == "[memory]" and e.device_type().name == "CPU"
    ]
    return max(0, int(np.cumsum([size for _, size in sorted(allocations)]).max(initial=0)))


def machine_name(device: torch.device) -> str:
    """The name of the processor that a device is."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor_name()


@cache
def _processor_name() -> str:
    """As the maker calls it; the architecture where that is not known."""
    from cpuinfo import get_cpu_info

    try:
        name = get_cpu_info().get("brand_raw")
    except Exception:  # of an architecture that it does not know
        name = None
    return name or platform.processor() or platform.machine()


def peak_resident_memory() -> int:
    """Largest resident size of this process so far, bytes."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
