"""Fits that aim at what an activation cannot tell apart: `python -m benchmarks.aims`.

One plan per network and budget, by which the original is fitted with several relaxations (0: not
aimed), and judged on images that neither saw: calibration images outside the draw, never test
images. With `--images DIR` the EfficientNet-Lite0 on DIR/calib, judged on the crops of photographs
held apart.
"""

from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import typer
from rich.console import Console
from rich.table import Table

import fxprune
from benchmarks.datasets.images import DEBIAN
from benchmarks.examination.apart import cases, judged
from benchmarks.examination.outputs import logits
from fxprune.fit.aims import RELAXATION


def main(
    net: Annotated[list[str] | None, typer.Option(help="networks; all by default")] = None,
    flops: Annotated[list[float] | None, typer.Option(help="budgets; 0.5, 0.35")] = None,
    relaxation: Annotated[list[float] | None, typer.Option(help="0 and 1.5 by default")] = None,
    seed: int = 0,
    data: Path = DEBIAN,
    folder: Annotated[Path | None, typer.Option("--images", help="DIR/calib, instead")] = None,
) -> None:
    """Print the table."""
    steps = relaxation or [0.0, RELAXATION]
    table = Table("net", "FLOPs", *[f"relaxation {step:g}" for step in steps])
    table.title = "agreement %, relative error of the output, divergence of the probabilities"
    where = None if folder is None else folder / "calib"
    for name, model, calibration, groups, judges in cases(net, data, where, seed):
        common: Any = {"groups": groups, "decision": "argmax", "seed": seed, "progress": False}
        reference = logits(model, judges)
        for budget in flops or [0.5, 0.35]:
            plan, cells = fxprune.plan(model, calibration, flops=budget, **common), []
            for step in steps:
                with patch("fxprune.fit.aims.RELAXATION", step):
                    outputs = logits(fxprune.apply(model, plan, calibration, **common), judges)
                cells.append(judged(outputs, reference))
            table.add_row(name, f"{budget:g}", *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
