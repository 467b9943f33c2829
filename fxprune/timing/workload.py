"""What models are measured on, and models and inputs placed there."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.capture.batch import Batch
from fxprune.capture.copying import copy_model
from fxprune.capture.precision import callers_precision
from fxprune.errors import UnsupportedError, name_function
from fxprune.plans.numbers import is_number, read_number

Call = Callable[[], Any]
Measure = Callable[[nn.Module], float]
"""Seconds that a call of a model takes, however a caller finds out."""
MOST = 2**31
"""Numbers that torch takes are below this."""


@dataclass(frozen=True)
class Workload:
    """What a model will be run on.

    Attributes:
        batch: examples per call.
        compiled: by `torch.compile`, for this batch size alone.
        device: such as `cuda`; by default where the model's parameters are.
        dtype: that the model and its floating-point inputs are cast to; by default the model's own.
        threads: of the CPU; by default what torch uses now.
        measure: takes a model in eval mode and gives the seconds of a call of it, above 0: by
            another runtime, on another machine. `latency=` is then met by what it says of whole
            models; what single layers take is still PyTorch's, on the rest of the workload. It may
            change the model that it is given, which is a copy. By default PyTorch is timed.
    """

    batch: int = 1
    compiled: bool = False
    device: str | None = None
    dtype: torch.dtype | None = None
    threads: int | None = None
    measure: Measure | None = None

    def __post_init__(self) -> None:
        for name, value in (("batch", self.batch), ("threads", self.threads)):
            if name == "threads" and value is None:
                continue
            if value is None or not is_whole(value) or not 1 <= value < MOST:
                raise UnsupportedError(
                    f"{name}={value!r}: a workload has a whole number of them, 1 or more."
                )
        if not isinstance(self.compiled, (bool, np.bool_)):
            raise UnsupportedError(f"compiled={self.compiled!r}: a workload is compiled or not.")
        try:
            torch.device(self.device or "cpu")
        except (RuntimeError, TypeError, ValueError) as error:
            raise UnsupportedError(
                f"device={self.device!r} is no device. Give one such as cuda."
            ) from error
        if self.dtype is not None and not isinstance(self.dtype, torch.dtype):
            raise UnsupportedError(f"dtype={self.dtype!r}: give one such as torch.bfloat16.")
        if self.measure is not None and not callable(self.measure):
            raise UnsupportedError(
                f"measure={self.measure!r}: give a callable that takes a model and gives the "
                "seconds of a call of it."
            )

    def __str__(self) -> str:
        """For reports: `eager, batch 8, cuda, bfloat16, 4 threads`, or who measures; defaults are
        left out.
        """
        if self.measure is not None:
            return f"measured by {name_function(self.measure)}"
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


def is_whole(value: Any) -> bool:
    """A whole number, NumPy's too; True is none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


@contextmanager
def use_settings(workload: Workload) -> Iterator[None]:
    """No gradients, the workload's number of threads, and the precision of float32 that the caller
    computes in, until the block ends.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(workload.threads or before)
    try:
        with torch.no_grad(), callers_precision():
            yield
    finally:
        torch.set_num_threads(before)


def place_batch(example: Batch, workload: Workload, device: torch.device) -> Batch:
    """A batch of the workload's size, made of the example's rows in turn, on the device and in the
    dtype.
    """

    def place(tensor: Tensor) -> Tensor:
        return tensor.to(device, workload.dtype if tensor.is_floating_point() else None)

    return example.take(torch.arange(workload.batch) % example.size).map(place)


def place_model(model: nn.Module, workload: Workload) -> tuple[nn.Module, torch.device]:
    """A copy of the model in eval mode, on the workload's device and in its dtype."""
    first = next(model.parameters(), torch.empty(0))
    device = torch.device(workload.device) if workload.device is not None else first.device
    return copy_model(model).to(device, workload.dtype).eval(), device


def ask_measure(measure: Measure, model: nn.Module) -> float:
    """What a caller's function says of a copy of a model, seconds.

    Raises:
        UnsupportedError: it fails, or gives no number above 0.
    """
    name = name_function(measure)
    try:
        found = measure(copy_model(model).eval())
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0][:300]
        raise UnsupportedError(
            f"measure={name} fails on {type(model).__name__}: {type(error).__name__}: {first}. It "
            "is called with the original and with smaller models, each in eval mode."
        ) from error
    seconds = read_number(found)
    if not is_number(seconds) or not 0 < seconds < math.inf:
        raise UnsupportedError(
            f"measure={name} gave {found!r} for {type(model).__name__}: give the seconds of a "
            "call, a number above 0."
        )
    return float(seconds)


def prepare_call(model: nn.Module, example: Batch, workload: Workload) -> Call:
    """One forward pass of a copy of the model on the workload, compiled and warm.

    Call it inside `use_settings`.

    Raises:
        UnsupportedError: the model does not run on this workload.
    """
    try:
        copied, device = place_model(model, workload)
        batch = place_batch(example, workload, device)
        run = torch.compile(copied, dynamic=False) if workload.compiled else copied
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
