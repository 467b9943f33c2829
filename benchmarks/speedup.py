"""What half the FLOPs gives in time: `python -m benchmarks.speedup`.

Every network is compressed to half its FLOPs and measured beside its original, eager and compiled,
at batch 1 and 8. The ideal speedup is the original's FLOPs over the small model's. The networks
trained in this repository are compressed by `channels`; torchvision's have random weights, lose
their smallest channels (uniform widths), and stand for time alone.

`--maker torch-pruning` measures Torch-Pruning's result in our place, in an environment that has
it: the smallest channels of every layer, the largest model within the same budget. Its `round_to`
moves all layers' widths at once, by far more than a budget can be met with, and is left out.

Rows are kept in docs/speedup.json as they are measured, and replaced when measured again;
docs/speedup.md is written from all of them.
"""

import datetime
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark.utils.timer import timer

import fxprune
from benchmarks.examination.speedup_page import FLOPS, MAKERS, Row, page
from benchmarks.models.timed import networks
from fxprune.capture.batch import to_batch
from fxprune.label.flops import count_flops
from fxprune.timing.clock import machine_name, time_in_turns
from fxprune.timing.workload import Call, Workload, prepare_call, use_settings

FOLDER = Path(__file__).resolve().parent.parent / "docs"
CLOCKS = {"wall": timer, "processor": time.process_time}
HEAVY = ("conv", "mm", "linear", "attention")
"""Parts of the names of operators that FLOPs are counted of."""


def heavy_seconds(call: Call, seconds: float) -> float:
    """Seconds that one call spends in operators whose FLOPs are counted: their share by the
    profiler of a measured time.
    """
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(max(1, min(50, int(0.5 / seconds)))):
            call()
    events = [(e.key, float(e.self_cpu_time_total)) for e in seen.key_averages()]
    total = sum(spent for _, spent in events)
    heavy = sum(spent for name, spent in events if any(part in name for part in HEAVY))
    return seconds * heavy / max(total, 1e-12)


def measure(
    maker: str,
    name: str,
    small: nn.Module,
    original: nn.Module,
    example: Tensor,
    workload: Workload,
    rounds: int,
    turn: float,
    clock: str,
) -> Row:
    """One row."""
    before, after = (count_flops(model, to_batch(original, example)) for model in (original, small))
    with use_settings(workload):
        calls = [
            prepare_call(model, to_batch(original, example), workload)
            for model in (original, small)
        ]
        times = time_in_turns(calls, rounds, turn, CLOCKS[clock])
        first, second = (float(t) for t in np.median(times, axis=0))
        heavy = (heavy_seconds(calls[0], first), heavy_seconds(calls[1], second))
    low, middle, high = (
        float(q) for q in np.quantile(times[:, 0] / times[:, 1], [0.25, 0.5, 0.75])
    )
    device = torch.device(workload.device or "cpu")
    return Row(
        maker,
        name,
        workload.mode,
        workload.batch,
        after / before,
        middle,
        low,
        high,
        first,
        second,
        heavy,
        clock,
        f"{machine_name(device)} ({device.type})",
        workload.threads or torch.get_num_threads(),
        torch.__version__,
        datetime.date.today().isoformat(),
    )


def made(maker: str, original: nn.Module, images: Tensor, method: str) -> nn.Module:
    """The original at `FLOPS`."""
    if maker == "fxprune":
        return fxprune.compress(
            original, images, flops=FLOPS, method=method, round_to="auto", progress=False
        )
    from benchmarks.models.peer import at_flops

    return at_flops(original, "magnitude", FLOPS, images[:2])


def read(path: Path) -> list[Row]:
    """The rows measured before."""
    held: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    return [Row(**{**r, "heavy": tuple(r["heavy"])}) for r in held]


def write(rows: list[Row], folder: Path) -> None:
    """Sort the rows, and keep them and the page made of them."""
    order = list(networks())
    rows.sort(key=lambda r: (r.maker, order.index(r.net), r.mode != "eager", r.batch))
    document = json.dumps([asdict(r) for r in rows], indent=1)
    (folder / "speedup.json").write_text(document + "\n")
    (folder / "speedup.md").write_text(page(rows))


def main(
    net: Annotated[list[str] | None, typer.Option(help="networks; all by default")] = None,
    maker: Annotated[
        str, typer.Option(help=f"of the small models: {' or '.join(MAKERS)}")
    ] = MAKERS[0],
    mode: Annotated[list[str] | None, typer.Option(help="eager, compiled; both by default")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="1 and 8 by default")] = None,
    threads: int = 2,
    device: str = "cpu",
    clock: Annotated[
        str, typer.Option(help="wall, or processor: for one thread on a busy machine")
    ] = "wall",
    rounds: int = 9,
    turn: Annotated[
        float, typer.Option(help="seconds of a model's turn in a round, at least one call")
    ] = 0.3,
    folder: Annotated[Path, typer.Option(help="for speedup.json and speedup.md")] = FOLDER,
) -> None:
    """Measure and write the table."""
    console, rows = Console(width=140), read(folder / "speedup.json")
    torch.set_num_threads(threads)
    for name in net or list(networks()):
        original, images, method = networks()[name]()
        try:
            small = made(maker, original, images, method)
        except RuntimeError as error:
            console.print(
                f"{name}: what {maker} makes of it does not run: {error}", highlight=False
            )
            continue
        for kind in mode or ("eager", "compiled"):
            for size in batch or (1, 8):
                row = measure(
                    maker,
                    name,
                    small,
                    original,
                    images[:1],
                    Workload(size, kind == "compiled", device, None, threads),
                    rounds,
                    turn,
                    clock,
                )
                console.print(
                    f"{name} {kind} {size}: {row.speedup:.2f}x of {1 / row.kept:.2f}x; "
                    f"{row.explained()}",
                    highlight=False,
                )
                same = (maker, name, kind, size)
                rows = [r for r in rows if (r.maker, r.net, r.mode, r.batch) != same] + [row]
                write(rows, folder)


if __name__ == "__main__":
    typer.run(main)
