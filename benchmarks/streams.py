"""What narrower residual streams are worth: `python -m benchmarks.streams`.

`auto` on the small vision transformer (`benchmarks.train_vit`), with its streams free and with
their norms ignored, so that they stay. 1,000 unlabeled calibration images that the network was not
trained on, drawn per seed; agreement on the test images, which nothing is fitted or chosen on.
"""

import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fxprune
from benchmarks.datasets.images import DEBIAN, draw, split
from benchmarks.models.vit import trained

WITHOUT = ("*norm*",)
"""Modules that are ignored where streams stay."""


@torch.no_grad()
def agreement(net: nn.Module, small: nn.Module, images: Tensor) -> float:
    """Share of images on which the largest logit is the same."""
    same = [net(x).argmax(1) == small(x).argmax(1) for x in images.split(500)]
    return float(torch.cat(same).float().mean())


def main(
    budgets: str = "0.8,0.65,0.5",
    seeds: int = 1,
    images: Annotated[int, typer.Option(help="Calibration images.")] = 1000,
    tests: Annotated[int, typer.Option(help="Test images.")] = 10_000,
    data: Path = DEBIAN,
) -> None:
    """Print agreement, widths of the stream and seconds."""
    net, pool = trained(), split("calibration", data).images
    test = split("test", data).images[:tests]
    table = Table("FLOPs", "seed", "streams", "agreement", "stream's width", "seconds")
    for seed in range(seeds):
        calibration = draw(pool, images, seed)
        for flops in (float(part) for part in budgets.split(",")):
            for name, ignore in (("stay", WITHOUT), ("free", ())):
                start = time.perf_counter()
                small = fxprune.compress(
                    net, calibration, flops=flops, ignore=ignore, seed=seed, progress=False
                )
                seconds = time.perf_counter() - start
                width = small.get_parameter("positions").shape[-1]
                found = agreement(net, small, test)
                table.add_row(
                    *(f"{flops:g}", str(seed), name),
                    *(f"{found:.2%}", str(width), f"{seconds:.0f}"),
                )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
