"""Fits that aim at what an activation cannot tell apart: `python -m benchmarks.aims`.

One plan per network and budget, by which the original is fitted with several numbers of rounds, and
judged on images that neither saw: calibration images outside the draw, never test images. With
`--images DIR` the EfficientNet-Lite0 on DIR/calib, judged on the crops of photographs held apart.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fxprune
from benchmarks.datasets.images import DEBIAN, draw, photographs, photos, split
from benchmarks.examination.outputs import logits
from benchmarks.models.nets import NETS, efficientnet_lite0, trained
from fxprune.verify.outputs import squared_error

APART = 50
"""Photographs whose crops judge."""


def cases(
    names: list[str] | None, data: Path, folder: Path | None, seed: int
) -> Iterator[tuple[str, nn.Module, Tensor, Tensor | None, Tensor]]:
    """Networks, what calibrates them, in which groups, and what judges them."""
    if folder is None:
        order = draw(split("calibration", data).images, 5000, seed)
        for name in names or list(NETS):
            yield name, trained(name), order[:1000], None, order[1000:]
        return
    pool, groups = photos(folder), photographs(folder)
    if groups is None:
        raise typer.BadParameter(f"beside {folder} there is no index.csv with the photographs")
    apart = torch.isin(groups, draw(groups.unique(), APART, 100 + seed))
    yield "EfficientNet-Lite0", efficientnet_lite0(), pool[~apart], groups[~apart], pool[apart]


def main(
    net: Annotated[list[str] | None, typer.Option(help="networks; all by default")] = None,
    flops: Annotated[list[float] | None, typer.Option(help="budgets; 0.5, 0.35")] = None,
    rounds: Annotated[list[int] | None, typer.Option(help="0 and 3 by default")] = None,
    seed: int = 0,
    data: Path = DEBIAN,
    folder: Annotated[Path | None, typer.Option("--images", help="DIR/calib, instead")] = None,
) -> None:
    """Print the table."""
    counts = rounds or [0, 3]
    table = Table("net", "FLOPs", *[f"{count} rounds" for count in counts])
    table.title = "agreement %, relative error of the output, divergence of the probabilities"
    where = None if folder is None else folder / "calib"
    for name, model, calibration, groups, judges in cases(net, data, where, seed):
        common: Any = {"groups": groups, "decision": "argmax", "seed": seed, "progress": False}
        reference = logits(model, judges)
        for budget in flops or [0.5, 0.35]:
            plan, cells = fxprune.plan(model, calibration, flops=budget, **common), []
            for count in counts:
                with patch("fxprune.fit.aims.ROUNDS", count):
                    outputs = logits(fxprune.apply(model, plan, calibration, **common), judges)
                cells.append(_judged(outputs, reference))
            table.add_row(name, f"{budget:g}", *cells)
    Console(width=120).print(table)


def _judged(outputs: Tensor, reference: Tensor) -> str:
    agreement = float((outputs.argmax(1) == reference.argmax(1)).float().mean())
    error, spread = squared_error(reference, outputs)
    divergence = nn.functional.kl_div(
        outputs.log_softmax(1), reference.log_softmax(1), reduction="batchmean", log_target=True
    )
    return f"{100 * agreement:.2f}, {error / spread:.4f}, {float(divergence):.4f}"


if __name__ == "__main__":
    typer.run(main)
