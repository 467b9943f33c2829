"""Errors that add up over positions, in the plans of `auto`: `python -m benchmarks.positions`.

Plans made as if errors at different positions of an example were uncorrelated, and with what they
cost once they add up, judged on images that neither plan nor fit saw: calibration images outside
the draw, never test images. With `--images DIR` the EfficientNet-Lite0 on DIR/calib, judged on the
crops of photographs held apart.
"""

from collections.abc import Mapping
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

LEVEL = "fxprune.profile.sensitivity.level"


def leave(metrics: Mapping[object, object], known: Mapping[object, object]) -> None:
    """Sensitivities stay as they are."""


def main(
    net: Annotated[list[str] | None, typer.Option(help="networks; all by default")] = None,
    flops: Annotated[list[float] | None, typer.Option(help="budgets; 0.7, 0.5, 0.35")] = None,
    method: str = "auto",
    seed: int = 0,
    data: Path = DEBIAN,
    folder: Annotated[Path | None, typer.Option("--images", help="DIR/calib, instead")] = None,
) -> None:
    """Print the table."""
    table = Table("net", "FLOPs", "uncorrelated", "adding up")
    table.title = "agreement %, relative error of the output, divergence of the probabilities"
    where = None if folder is None else folder / "calib"
    for name, model, calibration, groups, judges in cases(net, data, where, seed):
        reference = logits(model, judges)
        how: Any = {"method": method, "groups": groups, "decision": "argmax", "seed": seed}
        how |= {"budgets": flops or [0.7, 0.5, 0.35], "progress": False}
        with patch(LEVEL, leave):
            apart = fxprune.sweep(model, calibration, **how)
        together = fxprune.sweep(model, calibration, **how)
        for budget, before in apart.items():
            models = before, together[budget]
            cells = (judged(logits(small, judges), reference) for small in models)
            table.add_row(name, f"{budget:g}", *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
