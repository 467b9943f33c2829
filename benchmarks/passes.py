"""What compressing costs, in plain forward passes over the calibration images: `python -m
benchmarks.passes`.

Processor time on one thread; passes and calls take turns, and the fastest of each counts. Stations
are the report's, by the clock, scaled to the whole.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fxprune
from benchmarks.datasets.images import DEBIAN, draw, photos, split
from benchmarks.examination.outputs import logits
from benchmarks.models.nets import NETS, efficientnet_lite0, trained

T = TypeVar("T")

STATIONS = {
    "capture and labels": ("capture", "label"),
    "statistics": ("calibrate",),
    "selection": ("profile",),
    "plans": ("allocate",),
    "rewrite": ("rewrite", "hand over"),
    "fits": ("fit",),
    "verify": ("verify",),
}
"""Columns, and the report's stations that they sum."""


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """Processor seconds of a call, and what it returns."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def row(
    net: nn.Module, images: Tensor, flops: float, method: str, repeats: int
) -> tuple[float, dict[str, float]]:
    """Seconds of one forward pass over the images, and passes that every station took; "all" is
    the whole call, "expected" what it was expected to take when it began.
    """
    passes, calls = [], []
    for _ in range(repeats):
        passes.append(timed(lambda: logits(net, images))[0])
        whole, small = timed(
            lambda: fxprune.compress(net, images, flops=flops, method=method, progress=False)
        )
        calls.append((whole, fxprune.report(small)))
    forward, (whole, report) = min(passes), min(calls, key=lambda call: call[0])
    seconds, foreseen = report.seconds, report.passes or (math.nan, math.nan)
    scale = whole / sum(seconds.values()) / forward
    return forward, {
        k: scale * sum(seconds.get(s, 0.0) for s in names) for k, names in STATIONS.items()
    } | {"all": whole / forward, "expected": foreseen[0]}


def main(
    net: Annotated[list[str] | None, typer.Option(help="networks; all by default")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="auto, channels and uniform by default")
    ] = None,
    images: Annotated[int, typer.Option(help="for calibration")] = 1000,
    flops: Annotated[float, typer.Option(help="budget")] = 0.5,
    repeats: Annotated[
        int, typer.Option(help="the fastest of so many passes and calls counts")
    ] = 5,
    data: Path = DEBIAN,
    photographs: Annotated[
        Path | None,
        typer.Option("--images-of", help="instead: EfficientNet-Lite0 on the images of a folder"),
    ] = None,
) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    if photographs is None:
        calibration = draw(split("calibration", data).images, images, 0)
        models = {name: trained(name) for name in net or list(NETS)}
    else:
        calibration = draw(photos(photographs), images, 0)
        models = {"EfficientNet-Lite0": efficientnet_lite0()}
    # Importing torch.export takes a second, once per process.
    fxprune.compress(
        nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)),
        torch.randn(100, 8),
        flops=0.9,
        method="uniform",
        progress=False,
    )
    table = Table(
        title=f"Forward passes over {len(calibration)} images that compress(flops={flops:g}) takes",
        title_justify="left",
    )
    for column in ("net", "method", "one pass, s", *STATIONS, "all", "expected"):
        table.add_column(column, justify="left" if column in ("net", "method") else "right")
    for name, model in models.items():
        logits(model, calibration)
        for way in method or ("uniform", "channels", "auto"):
            forward, found = row(model, calibration, flops, way, repeats)
            table.add_row(name, way, f"{forward:.2f}", *(f"{v:.1f}" for v in found.values()))
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(main)
