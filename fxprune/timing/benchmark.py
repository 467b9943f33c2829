"""How much faster and leaner a compressed model is than its original, measured:
`fxprune.benchmark`.
"""

import datetime
import json
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from fxprune.capture.batch import Batch, to_batch
from fxprune.capture.undisturbed import default_device
from fxprune.errors import UnsupportedError
from fxprune.timing.clock import machine_name, measure_peak_memory, time_in_turns
from fxprune.timing.workload import Workload, is_whole, prepare_call, use_settings

if TYPE_CHECKING:
    from rich.table import Table

MODES = ("eager", "compiled")


@dataclass(frozen=True)
class Timing:
    """One workload, original against small.

    Attributes:
        batch: examples per call.
        mode: `eager` or `compiled`.
        original, small: median seconds per call.
        speedup: median over rounds of original / small, each pair measured back to back.
        low, high: quartiles of the rounds' speedups.
        memory: most bytes a call of the original and of the small model holds at a time, weights
            included.
    """

    batch: int
    mode: str
    original: float
    small: float
    speedup: float
    low: float
    high: float
    memory: tuple[int, int]


@dataclass(frozen=True)
class Benchmark:
    """Timings of a compressed model beside its original.

    Attributes:
        machine: the processor's name.
        device, dtype, threads: what was measured on.
        torch: its version.
        date: ISO 8601.
        rounds: interleaved rounds behind every row.
        rows: one per mode and batch size.
    """

    machine: str
    device: str
    dtype: str
    threads: int
    torch: str
    date: str
    rounds: int
    rows: tuple[Timing, ...]

    def row(self, mode: str, batch: int) -> Timing:
        """The timing of one workload.

        Raises:
            KeyError: it was not measured.
        """
        for row in self.rows:
            if (row.mode, row.batch) == (mode, batch):
                return row
        raise KeyError((mode, batch))

    def to_json(self, **options: Any) -> str:
        """The figures as a JSON document."""
        return json.dumps(asdict(self), **options)

    def __rich__(self) -> "Table":
        """A table for a terminal."""
        from rich.table import Table

        table = Table(
            title="Small model against its original",
            title_justify="left",
            caption_justify="left",
            caption=f"{self.machine}, {self.device}, {self.dtype}, {self.threads} thread(s), "
            f"torch {self.torch}, {self.date}; medians of "
            f"{self.rounds} interleaved rounds, quartiles in brackets. Memory: weights and the "
            "peak of one call.",
        )
        for column in ("mode", "batch", "original", "small", "speedup", "memory"):
            table.add_column(column, justify="left" if column == "mode" else "right")
        for r in self.rows:
            before, after = r.memory
            table.add_row(
                r.mode,
                str(r.batch),
                f"{1e3 * r.original:.3g} ms",
                f"{1e3 * r.small:.3g} ms",
                f"{r.speedup:.2f}x ({r.low:.2f} to {r.high:.2f})",
                f"{before / 1e6:.1f} to {after / 1e6:.1f} MB",
            )
        return table

    def __str__(self) -> str:
        """The table as plain text."""
        from rich.console import Console

        console = Console(width=120, force_terminal=False, no_color=True)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


def _weights(model: nn.Module, dtype: torch.dtype | None) -> int:
    tensors = [*model.parameters(), *model.buffers()]
    return sum(
        t.numel() * (dtype.itemsize if dtype and t.is_floating_point() else t.element_size())
        for t in tensors
    )


def compare_models(
    small: nn.Module,
    original: nn.Module,
    example: Batch,
    workload: Workload,
    rounds: int,
    seconds: float,
) -> Timing:
    """One row: both models on one workload."""
    with use_settings(workload), default_device(original):
        calls = [prepare_call(model, example, workload) for model in (original, small)]
        times = time_in_turns(calls, rounds, seconds)
        device = torch.device(workload.device or next(original.parameters()).device)
        memory = [
            _weights(m, workload.dtype) + measure_peak_memory(call, device)
            for m, call in zip((original, small), calls, strict=True)
        ]
    ratios = times[:, 0] / times[:, 1]
    low, middle, high = (float(q) for q in np.quantile(ratios, [0.25, 0.5, 0.75]))
    before, after = (float(t) for t in np.median(times, axis=0))
    return Timing(
        workload.batch, workload.mode, before, after, middle, low, high, (memory[0], memory[1])
    )


def check_request(
    small: Any, original: Any, batches: Any, modes: Any, rounds: Any, seconds: Any
) -> None:
    """Check what `benchmark` was asked before anything runs.

    Raises:
        UnsupportedError: a value is of the wrong kind; says which and what to give.
    """
    for name, model in (("small", small), ("original", original)):
        if not isinstance(model, nn.Module):
            raise UnsupportedError(f"{name} is a {type(model).__name__}, not a torch.nn.Module.")
    single = getattr(modes, "ndim", 1) == 0  # of numpy and torch
    if single or not isinstance(modes, Iterable) or not all(isinstance(m, str) for m in modes):
        raise UnsupportedError(f"modes={modes!r}: give a list of {' and '.join(MODES)}.")
    for mode in modes:
        if mode not in MODES:
            raise UnsupportedError(f"modes: {mode!r} is not one of {', '.join(MODES)}.")
    try:
        for size in batches:
            operator.index(size)
    except (TypeError, ValueError) as error:
        raise UnsupportedError(
            f"batches={batches!r}: give a list of whole numbers, such as (1, 32)."
        ) from error
    if not is_whole(rounds) or rounds < 1:
        raise UnsupportedError(f"rounds={rounds!r}: one or more are needed.")
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not number or not 0 <= seconds < math.inf:
        raise UnsupportedError(f"seconds={seconds!r}: how long a turn lasts is 0 or more.")


def benchmark(
    small: nn.Module,
    original: nn.Module,
    example: Any,
    *,
    batches: Sequence[int] = (1, 32),
    modes: Sequence[str] = MODES,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    threads: int | None = None,
    rounds: int = 15,
    seconds: float = 0.2,
) -> Benchmark:
    """Measure a compressed model beside its original.

    Both run in eval mode without gradients and take turns, so that what else the machine does hits
    both; the speedup is the median of the rounds' ratios. Copies are measured: the models passed
    in stay as they are.

    Args:
        small: what `compress` returned, or any other model.
        original: the model that was compressed.
        example: a tensor, tuple or dict as `forward` takes it; its examples are repeated up to the
            batch size.
        batches: examples per call.
        modes: `eager`, `compiled` (torch.compile for each batch size), or both.
        device, dtype: to measure on; by default the models' own.
        threads: of the CPU; by default what torch uses now.
        rounds: interleaved rounds per workload.
        seconds: that one model's turn lasts in each round, at least one call.

    Returns:
        the figures; `str` of it is a table, `.row("eager", 1).speedup` a number.

    Raises:
        UnsupportedError: a value is of the wrong kind, or a model does not run on a workload.
    """
    check_request(small, original, batches, modes, rounds, seconds)
    batch = to_batch(original, example)
    rows = tuple(
        compare_models(
            small,
            original,
            batch,
            Workload(operator.index(size), mode == "compiled", device, dtype, threads),
            rounds,
            seconds,
        )
        for mode in modes
        for size in batches
    )
    first = next(original.parameters(), torch.empty(0))
    where = torch.device(device) if device else first.device
    return Benchmark(
        machine_name(where),
        str(where),
        str(dtype or first.dtype).removeprefix("torch."),
        threads or torch.get_num_threads(),
        torch.__version__,
        datetime.date.today().isoformat(),
        rounds,
        rows,
    )
