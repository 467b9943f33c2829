"""What each ingredient is worth: `python -m benchmarks.ablation`, at equal FLOPs, no fine-tuning,
10,000 test images.
"""

import json
import warnings
from pathlib import Path
from typing import Annotated

import torch
import typer
from fxprune.allocate.planning import allocated
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.datasets.images import DEBIAN, draw, split
from benchmarks.examination.opened import opened
from benchmarks.examination.outputs import logits
from benchmarks.models.nets import NETS, trained
from fxprune.errors import CalibrationWarning
from fxprune.fit.build import build, surviving_channels

STEPS = (
    ("smallest weights, nothing fitted", "magnitude", "uniform", "magnitude", True),
    ("smallest weights, interpolated", "magnitude", "uniform", "paper-uniform", True),
    ("pivoted QR, interpolated", "pivoted-qr", "uniform", "paper-uniform", True),
    ("consumers' errors, interpolated", "output-aware", "uniform", "paper-uniform", False),
    ("output's error, interpolated", "output-aware", "uniform", "paper-uniform", True),
    ("pivoted QR, fitted in lockstep", "pivoted-qr", "uniform", "uniform", True),
    ("consumers' errors, fitted in lockstep", "output-aware", "uniform", "uniform", False),
    ("output's error, fitted in lockstep", "output-aware", "uniform", "uniform", True),
    ("the same, best of the widths tried", "output-aware", "channels", "channels", True),
    ("the same, with ranks", "output-aware", "auto", "auto", True),
)
"""What is done; the selector, the allocation, the fit (a method of `build`), and whether errors
count by what they do to the output.
"""


@torch.no_grad()
def measure(
    name: str, flops: float, seed: int, calibration: Tensor, test: Tensor
) -> list[dict[str, object]]:
    """Agreement on the test images after each step."""
    net = trained(name)
    decided = logits(net, test).argmax(1)
    rows: list[dict[str, object]] = []
    for by_output in (True, False):
        session = opened(net, calibration, seed)
        if not by_output:
            session.worth = {}
        for title, selector, allocation, fit, needs in STEPS:
            if needs is not by_output:
                continue
            profiles, plan = allocated(session, allocation, selector, {"flops": flops})
            small = build(
                session, surviving_channels(session, profiles, plan.widths), fit, plan.ranks
            )
            agreement = float((logits(small, test).argmax(1) == decided).float().mean())
            rows.append(
                {"net": name, "step": title, "flops": flops, "seed": seed, "agreement": agreement}
            )
    return rows


def show(rows: list[dict[str, object]], console: Console) -> None:
    """Print the table."""
    names = list(dict.fromkeys(str(r["net"]) for r in rows))
    table = Table(title="Test agreement %, mean over calibration draws", title_justify="left")
    for column in ("", *names):
        table.add_column(column, justify="right" if column else "left")
    for title, *_ in STEPS:
        cells = []
        for name in names:
            found = [float(r["agreement"]) for r in rows if r["net"] == name and r["step"] == title]  # type: ignore[arg-type]
            cells.append(f"{100 * sum(found) / len(found):.2f}" if found else "")
        table.add_row(title, *cells)
    console.print(table)


def main(
    net: Annotated[list[str] | None, typer.Option(help="networks; all by default")] = None,
    flops: float = 0.5,
    seeds: int = 1,
    count: Annotated[int, typer.Option(help="calibration images")] = 1000,
    data: Path = DEBIAN,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Write the ablation table."""
    warnings.simplefilter("ignore", CalibrationWarning)
    pool, test = split("calibration", data), split("test", data)
    rows: list[dict[str, object]] = []
    for name in net or list(NETS):
        for seed in range(seeds):
            rows += measure(name, flops, seed, draw(pool.images, count, seed), test.images)
        if json_file is not None:
            json_file.write_text(json.dumps(rows, indent=1))
    show(rows, Console(width=140))


if __name__ == "__main__":
    typer.run(main)
