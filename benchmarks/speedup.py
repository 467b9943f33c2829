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
from collections.abc import Callable
from dataclasses import asdict, dataclass
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
from benchmarks import nets, torchvision_ops
from fxprune.capture.batch import to_batch
from fxprune.demo import data
from fxprune.label.flops import count_flops
from fxprune.timing.clock import machine_name, time_in_turns
from fxprune.timing.workload import Call, Workload, prepare_call, use_settings

FOLDER = Path(__file__).resolve().parent.parent / "docs"
FLOPS = 0.5
GOAL = 0.8
"""Share of the ideal speedup below which a row is explained."""
MAKERS = ("fxprune", "torch-pruning")
TORCHVISION = ("resnet50", "vgg16_bn", "mobilenet_v2", "convnext_tiny", "vit_b_16")
CLOCKS = {"wall": timer, "processor": time.process_time}
HEAVY = ("conv", "mm", "linear", "attention")
"""Parts of the names of operators that FLOPs are counted of."""


@dataclass(frozen=True)
class Row:
    """One network on one workload.

    Attributes:
        maker: of the small model, `fxprune` or `torch-pruning`.
        net, mode, batch: which.
        kept: share of the FLOPs that is left.
        speedup: median over rounds of original / small; `low` and `high` are its quartiles.
        original, small: median seconds per call.
        heavy: seconds in convolutions and matrix products, of the original and the small model, by
            torch.profiler.
        clock: `wall`, or `processor`: what one thread used of the processor, which is the wall
            time of an idle machine.
        machine, threads, torch, date: where and when.
    """

    maker: str
    net: str
    mode: str
    batch: int
    kept: float
    speedup: float
    low: float
    high: float
    original: float
    small: float
    heavy: tuple[float, float]
    clock: str
    machine: str
    threads: int
    torch: str
    date: str

    @property
    def share(self) -> float:
        """Of the ideal speedup."""
        return self.speedup * self.kept

    def explained(self) -> str:
        """Where the time went that half the FLOPs did not save."""
        (first, second), rest = (
            self.heavy,
            (self.original - self.heavy[0], self.small - self.heavy[1]),
        )
        part = first / self.original
        return (
            f"convolutions and matrix products, {part:.0%} of the original's time, run "
            f"{first / max(second, 1e-12):.2f}x as fast; the rest "
            f"takes {1e3 * rest[0]:.1f} ms before and {1e3 * rest[1]:.1f} ms after"
        )


def heavy_seconds(call: Call, seconds: float) -> float:
    """Seconds that one call spends in operators whose FLOPs are counted: their share by the
    profiler of a measured time.
    """
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(max(1, min(50, int(0.5 / seconds)))):
            call()
    events = [(e.key, e.self_cpu_time_total) for e in seen.key_averages()]
    total = sum(time for _, time in events)
    return (
        seconds
        * sum(time for name, time in events if any(part in name for part in HEAVY))
        / max(total, 1e-12)
    )


def networks() -> dict[str, Callable[[], tuple[nn.Module, Tensor, str]]]:
    """Model, calibration examples and method by name."""

    def own(name: str) -> Callable[[], tuple[nn.Module, Tensor, str]]:
        return lambda: (nets.trained(name), data.load().calibration, "channels")

    def torchvision(name: str) -> Callable[[], tuple[nn.Module, Tensor, str]]:
        torch.manual_seed(0)
        return lambda: (
            getattr(torchvision_ops.torchvision.models, name)().eval(),
            torch.randn(4, 3, 224, 224),
            "magnitude",
        )

    return {name: own(name) for name in nets.NETS} | {
        name: torchvision(name) for name in TORCHVISION
    }


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
    from benchmarks.peer_tradeoff import at_flops

    return at_flops(original, "magnitude", FLOPS, images[:2])


def table(rows: list[Row]) -> list[str]:
    """A line per network, a column per workload."""
    columns = sorted({(r.mode, r.batch) for r in rows}, key=lambda c: (c[0] != "eager", c[1]))
    by = {(r.net, r.mode, r.batch): r for r in rows}
    lines = [
        "| net | ideal | " + " | ".join(f"{mode}, batch {batch}" for mode, batch in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for net in dict.fromkeys(r.net for r in rows):
        cells = [by.get((net, *column)) for column in columns]
        ideal = 1 / next(c.kept for c in cells if c is not None)
        shown = [
            ""
            if c is None
            else f"**{c.share:.0%}**, {c.speedup:.2f}x ({c.low:.2f} to {c.high:.2f})"
            for c in cells
        ]
        lines.append(f"| {net} | {ideal:.2f}x | " + " | ".join(shown) + " |")
    return lines


def page(rows: list[Row]) -> str:
    """docs/speedup.md."""
    ours, theirs = ([r for r in rows if r.maker == maker] for maker in MAKERS)
    lines = [
        "# What half the FLOPs gives in time",
        "",
        f'`python -m benchmarks.speedup` at `flops={FLOPS}`, `round_to="auto"`: in bold the '
        "measured share of the ideal speedup, which is FLOPs",
        "before over FLOPs after; then the speedup, median and quartiles of interleaved rounds. "
        "Networks of this repository are trained and",
        "compressed by `channels`; torchvision's have random weights, uniform widths, and images "
        "of 224 x 224. Processor time of one thread is the",
        "wall time of an idle machine; other jobs still take its caches.",
        "",
        "; ".join(
            dict.fromkeys(
                f"{r.machine}, {r.threads} thread(s), {r.clock} time, torch {r.torch}, {r.date}"
                for r in ours
            )
        )
        + ".",
        "",
        *table(ours),
    ]
    missed = [r for r in ours if r.share < GOAL]
    if missed:
        lines += ["", f"## Below {GOAL:.0%} of the ideal", "", "From torch.profiler:", ""]
        lines += [
            f"- {r.net}, {r.mode}, batch {r.batch} ({r.share:.0%}): {r.explained()}."
            for r in missed
        ]
    if theirs:
        failed = dict.fromkeys(o.net for o in ours if o.net not in {r.net for r in theirs})
        both = [
            (r, o)
            for r in theirs
            for o in ours
            if (r.net, r.mode, r.batch) == (o.net, o.mode, o.batch)
        ]
        lines += [
            "",
            "## Beside Torch-Pruning at the same FLOPs",
            "",
            "`--maker torch-pruning`, version 1.6.1: the smallest channels of every layer, the "
            f"largest model within `flops={FLOPS}` (its `round_to` moves",
            "all widths at once and misses the budget by far). What it leaves of the decisions "
            "without training is in [trade-off](tradeoff.md).",
            "",
            *table(theirs),
            "",
            f"Of {len(both)} workloads ours is the faster one in "
            f"{sum(o.speedup > r.speedup for r, o in both)}; its speedup is "
            f"{np.exp(np.mean([np.log(o.speedup / r.speedup) for r, o in both])):.2f} times "
            "theirs in the geometric mean."
            + (
                f" Without a row: {', '.join(failed)}, which does not run after its pruning."
                if failed
                else ""
            ),
        ]
    return "\n".join(lines) + "\n"


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
    console, path = Console(width=140), folder / "speedup.json"
    held: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    rows = [Row(**{**r, "heavy": tuple(r["heavy"])}) for r in held]
    order = list(networks())
    torch.set_num_threads(threads)
    for name in net or order:
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
                rows.sort(key=lambda r: (r.maker, order.index(r.net), r.mode != "eager", r.batch))
                path.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
                (folder / "speedup.md").write_text(page(rows))


if __name__ == "__main__":
    typer.run(main)
