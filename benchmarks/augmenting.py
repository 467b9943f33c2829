"""What `recover` gains by each optimizer and way to augment: `python -m benchmarks.augmenting`.

One compressed network, trained several times over on its own calibration images, and judged on
others outside the draw, never on test images. With `--images DIR` the EfficientNet-Lite0 on
DIR/calib, judged on the crops of photographs held apart. The last weights are judged, whatever the
acceptance examples say of them; with `--accepted` those that `recover` hands back.
"""

from contextlib import nullcontext
from itertools import product
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
from fxprune.recovery.training import OPTIMIZERS

LAST = patch("fxprune.recovery.acceptance.Best.accepts", lambda best, measured: True)


def main(
    net: Annotated[list[str] | None, typer.Option(help="networks; all by default")] = None,
    flops: float = 0.35,
    steps: int = 400,
    batch: int = 32,
    rate: Annotated[float | None, typer.Option(help="that of recover by default")] = None,
    features: Annotated[
        float, typer.Option(help="weight of the last layers' outputs")
    ] = fxprune.Training.features,
    optimizer: Annotated[list[str] | None, typer.Option(help=f"of {', '.join(OPTIMIZERS)}")] = None,
    augment: Annotated[list[str] | None, typer.Option(help="such as flip,zoom,mix")] = None,
    accepted: Annotated[
        bool, typer.Option("--accepted", help="judge what recover hands back, not the last weights")
    ] = False,
    seed: int = 0,
    data: Path = DEBIAN,
    folder: Annotated[Path | None, typer.Option("--images", help="DIR/calib, instead")] = None,
) -> None:
    """Print the table."""
    ways = list(product(optimizer or [fxprune.Training.optimizer], augment or ["flip,crop,mix"]))
    table = Table("net", "before", *map(": ".join, ways))
    table.title = "agreement %, relative error of the output, divergence of the probabilities"
    where = None if folder is None else folder / "calib"
    for name, model, calibration, groups, judges in cases(net, data, where, seed):
        common: Any = {"groups": groups, "decision": "argmax", "seed": seed, "progress": False}
        reference = logits(model, judges)
        small = fxprune.compress(model, calibration, flops=flops, **common)
        cells = [judged(logits(small, judges), reference)]
        for how, way in ways:
            training = fxprune.Training(
                optimizer=how,
                batch=batch,
                rate=rate,
                features=features,
                evaluations=fxprune.Training.evaluations if accepted else 1,
            )
            wish: Any = common | {"training": training, "steps": steps}
            with nullcontext() if accepted else LAST:
                better = fxprune.recover(small, model, calibration, augment=way.split(","), **wish)
            cells.append(judged(logits(better, judges), reference))
        table.add_row(name, *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
