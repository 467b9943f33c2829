"""Measured time and memory: models take turns on one workload, so that a slow moment of the
machine hits all of them.
"""

import copy
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer
from torch.utils.benchmark.utils.timer import timer

from fxprune.capture.batch import Batch
from fxprune.errors import UnsupportedError

Call = Callable[[], Any]


@dataclass(frozen=True)
class Workload:
    """What a model will be run on.

    Attributes:
        batch: examples per call.
        compiled: by `torch.compile`, for this batch size alone.
        device: such as `cuda`; by default where the model's parameters are.
        dtype: that the model and its floating-point inputs are cast to; by default the model's own.
        threads: of the CPU; by default what torch uses now.
    """

    batch: int = 1
    compiled: bool = False
    device: str | None = None
    dtype: torch.dtype | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("batch", self.batch), ("threads", self.threads)):
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int) or value < 1
            ):
                raise UnsupportedError(
                    f"{name}={value!r}: a workload has a whole number of them, 1 or more."
                )

    def __str__(self) -> str:
        """For reports: `eager, batch 8, cuda, bfloat16, 4 threads`; defaults are left out."""
        dtype = str(self.dtype).removeprefix("torch.") if self.dtype else ""
        threads = f"{self.threads} threads" if self.threads else ""
        return ", ".join(
            part
            for part in (self.mode, f"batch {self.batch}", self.device or "", dtype, threads)
            if part
        )

    @property
    def mode(self) -> str:
        """`eager` or `compiled`."""
        return "compiled" if self.compiled else "eager"


@contextmanager
def running(workload: Workload) -> Iterator[None]:
    """No gradients, and the workload's number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(workload.threads or before)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(before)


def placed(example: Batch, workload: Workload, device: torch.device) -> Batch:
    """A batch of the workload's size, made of the example's rows in turn, on the device and in the
    dtype.
    """

    def place(tensor: Tensor) -> Tensor:
        return tensor.to(device, workload.dtype if tensor.is_floating_point() else None)

    return example.take(torch.arange(workload.batch) % example.size).map(place)


def moved(model: nn.Module, workload: Workload) -> tuple[nn.Module, torch.device]:
    """A copy of the model in eval mode, on the workload's device and in its dtype."""
    first = next(model.parameters(), torch.empty(0))
    device = torch.device(workload.device) if workload.device is not None else first.device
    with warnings.catch_warnings():
        # torch's own pytree specs warn about themselves when copied.
        warnings.simplefilter("ignore", FutureWarning)
        held = copy.deepcopy(model)
    return held.to(device, workload.dtype).eval(), device


def prepared(model: nn.Module, example: Batch, workload: Workload) -> Call:
    """One forward pass of a copy of the model on the workload, compiled and warm; call it inside
    `running`.

    Raises:
        UnsupportedError: the model does not run on this workload.
    """
    try:
        held, device = moved(model, workload)
        batch = placed(example, workload, device)
        run = torch.compile(held, dynamic=False) if workload.compiled else held
        run(*batch.args, **batch.kwargs)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0][:300]
        advice = (
            "torch.compile needs a C++ compiler on a CPU; measure eager where there is none"
            if workload.compiled
            else "try another batch size"
        )
        raise UnsupportedError(
            f"{type(model).__name__} does not run {workload.mode} at batch {workload.batch} on "
            f"{workload.device or 'its device'}: "
            f"{type(error).__name__}: {first} ({advice})."
        ) from error
    return lambda: run(*batch.args, **batch.kwargs)


def interleaved(
    calls: Sequence[Call], rounds: int, seconds: float, clock: Callable[[], float] = timer
) -> np.ndarray:
    """Time calls in turn.

    Args:
        calls: warm.
        rounds: every call is timed once in each, in alternating order.
        seconds: that one turn lasts about, at least one call.
        clock: wall time by default. With one thread on a busy CPU, time.process_time leaves out
            what other jobs take.

    Returns:
        (rounds, calls) float64, seconds per call; a GPU is waited for by torch.utils.benchmark.
    """
    timers = [
        Timer("call()", timer=clock, globals={"call": call}, num_threads=torch.get_num_threads())
        for call in calls
    ]
    numbers = [max(1, round(seconds / max(held.timeit(1).mean, 1e-9))) for held in timers]
    times = np.empty((rounds, len(calls)))
    order = list(range(len(calls)))
    for turn in times:
        for i in order:
            turn[i] = timers[i].timeit(numbers[i]).mean
        order.reverse()
    return times


def peak_memory(call: Call, device: torch.device) -> int:
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
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    records: Any = seen.profiler.kineto_results.events()
    held = [
        (e.start_ns(), e.nbytes())
        for e in records
        if e.name() == "[memory]" and e.device_type().name == "CPU"
    ]
    return max(0, int(np.cumsum([size for _, size in sorted(held)]).max(initial=0)))


def machine(device: torch.device) -> str:
    """The name of the processor that a device is."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
