"""What narrower residual streams are worth: `python -m benchmarks.streams`.

The small vision transformer (`benchmarks.train_vit`) by `auto`: with the norms of its stream
ignored, so that it stays; with the stream's channels selected; and with the stream rotated. Beside
these a uniform slice of the rotated stream, as SliceGPT makes it. 1,000 unlabeled calibration
images that the network was not trained on, drawn per seed; no fine-tuning; agreement on the test
images, which nothing is fitted, selected or tuned on.
"""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.datasets.images import DEBIAN, draw, split
from benchmarks.examination.opened import opened
from benchmarks.examination.outputs import logits
from benchmarks.examination.sliced import sliced
from benchmarks.models.vit import trained
from fxprune.capture.undisturbed import undisturbed
from fxprune.errors import BudgetError
from fxprune.pipeline import compress_session
from fxprune.plans.methods import METHODS
from fxprune.session import Session

WITHOUT = ("*norm*",)
"""Modules that are ignored where streams stay."""
SELECTED = replace(METHODS["auto"], streams=False)


def _auto(session: Session, flops: float) -> nn.Module:
    return compress_session(session, {"flops": flops})


def _selected(session: Session, flops: float) -> nn.Module:
    return compress_session(session.using(method=SELECTED), {"flops": flops})


WAYS: dict[str, tuple[tuple[str, ...], Callable[[Session, float], nn.Module]]] = {
    "stays": (WITHOUT, _auto),
    "selected": ((), _selected),
    "rotated": ((), _auto),
    "sliced": ((), sliced),
}
"""Modules that are ignored, and how the network is made smaller, by what becomes of the stream."""


def measure(
    net: nn.Module, calibration: Tensor, test: Tensor, budgets: list[float], seed: int
) -> list[dict[str, object]]:
    """A row per way and budget."""
    decided, rows = logits(net, test).argmax(1), list[dict[str, object]]()
    # What is observed of the network is the same for all budgets.
    sessions = {
        ignore: opened(net, calibration, seed, ignore=ignore) for ignore, _ in WAYS.values()
    }
    for flops in budgets:
        for name, (ignore, make) in WAYS.items():
            start = time.perf_counter()
            try:
                with undisturbed(net, seed):
                    small = make(sessions[ignore], flops)
            except BudgetError as error:
                print(f"{name} at {flops:g}: {error}", flush=True)
                continue
            rows.append(
                {
                    "seed": seed,
                    "flops": flops,
                    "stream": name,
                    "agreement": float((logits(small, test).argmax(1) == decided).float().mean()),
                    "width": small.get_parameter("positions").shape[-1],
                    "seconds": time.perf_counter() - start,
                }
            )
            print(rows[-1], flush=True)
    return rows


def table(rows: list[dict[str, object]]) -> Table:
    """Mean agreement, and every draw's width of the stream."""
    made = Table("FLOPs", "stream", "agreement", "stream's widths", "seconds")
    for flops, name in dict.fromkeys((row["flops"], row["stream"]) for row in rows):
        own = [row for row in rows if (row["flops"], row["stream"]) == (flops, name)]
        means = [
            sum(float(str(row[key])) for row in own) / len(own) for key in ("agreement", "seconds")
        ]
        widths = ", ".join(str(row["width"]) for row in own)
        made.add_row(f"{flops:g}", str(name), f"{means[0]:.2%}", widths, f"{means[1]:.0f}")
    return made


def main(
    budgets: str = "0.8,0.65,0.5,0.35",
    seeds: int = 3,
    images: Annotated[int, typer.Option(help="Calibration images.")] = 1000,
    tests: Annotated[int, typer.Option(help="Test images.")] = 10_000,
    data: Path = DEBIAN,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where rows are kept.")] = None,
) -> None:
    """Print mean agreement, widths of the stream and seconds."""
    net, pool = trained(), split("calibration", data).images
    test = split("test", data).images[:tests]
    asked, rows = [float(part) for part in budgets.split(",")], list[dict[str, object]]()
    for seed in range(seeds):
        rows += measure(net, draw(pool, images, seed), test, asked, seed)
        if json_file is not None:
            json_file.write_text(json.dumps(rows, indent=1))
    Console().print(table(rows))


if __name__ == "__main__":
    typer.run(main)
