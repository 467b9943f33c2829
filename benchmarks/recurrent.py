"""A trained recurrent network, compressed: `python -m benchmarks.recurrent`.

1-D convolutions, a GRU and a GRU in both directions (`benchmarks.models.melody`) at 0.7 and 0.5 of
the FLOPs, by `auto` and by the reference method at uniform widths (`paper-uniform`), on 1,000
unlabeled melodies per seed. Decisions are compared on melodies that nothing was trained, fitted or
selected on; times are of both models in turns. docs/recurrent.md is written from the rows.
"""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from torch import Tensor, nn

import fxprune
from benchmarks.datasets.melodies import draw_melodies
from benchmarks.examination.outputs import logits
from benchmarks.models.melody import trained
from fxprune.timing.clock import machine_name

METHODS = ("auto", "paper-uniform")
TESTED, TEST_SEED = 10_000, 1_000_000
"""Melodies that decisions are compared on, and their seed."""
PAGE = Path(__file__).resolve().parent.parent / "docs" / "recurrent.md"


@dataclass(frozen=True)
class Row:
    """One compressed model.

    Attributes:
        method, flops, seed: how it was made.
        kept: share of the FLOPs.
        agreement: share of the test melodies with the original's decision.
        accuracy: share with the true contour.
        units: hidden units of the two GRUs, per direction.
        speedups: of the original's time over its own, by batch size.
    """

    method: str
    flops: float
    seed: int
    kept: float
    agreement: float
    accuracy: float
    units: tuple[int, int]
    speedups: dict[int, float]


def measure(
    net: nn.Module, test: tuple[Tensor, Tensor], about: Row, count: int, batches: tuple[int, ...]
) -> Row:
    """Compress as a row says, and fill in what comes of it."""
    calibration, _ = draw_melodies(count, torch.Generator().manual_seed(2000 + about.seed))
    small = fxprune.compress(
        net,
        calibration,
        flops=about.flops,
        method=about.method,
        seed=about.seed,
        decision="argmax",
        progress=False,
    )
    bands, contours = test
    found, decided = (logits(model, bands).argmax(1) for model in (small, net))
    before, after = fxprune.report(small).flops
    timed = fxprune.benchmark(small, net, bands[:1], batches=batches, modes=("eager",), threads=1)
    units = [small.get_parameter(f"{name}.weight_hh_l0").shape[1] for name in ("forth", "both")]
    return Row(
        about.method,
        about.flops,
        about.seed,
        after / before,
        float((found == decided).float().mean()),
        float((found == contours).float().mean()),
        (units[0], units[1]),
        {row.batch: row.speedup for row in timed.rows},
    )


def page(rows: list[Row], accuracy: float, count: int, tested: int, note: str = "") -> str:
    """The table as a page; of several seeds the mean, and the lowest agreement. A note ends it."""
    batches = list(rows[0].speedups)
    heads = ["FLOPs", "method", "kept", "agreement (lowest)", "accuracy", "units"]
    heads += [f"speedup, batch {batch}" for batch in batches]
    lines = [
        "# A recurrent network",
        "",
        "Written by `python -m benchmarks.recurrent`, which compresses a trained network of 1-D "
        "convolutions, a GRU and a GRU in both",
        "directions (trained by `python -m benchmarks.train_melody`; synthesized melodies, the "
        f"contour is asked for, {accuracy:.2%} are right), on {count:,}",
        "unlabeled melodies, without training. `paper-uniform` is the reference method. Agreement "
        f"is with the original's decisions on {tested:,} melodies that",
        f"nothing was trained, fitted or selected on; {len({r.seed for r in rows})} seed(s). "
        "Speedups are medians of the original's time over the small model's, measured in",
        f"turns, eager, one thread. {machine_name(torch.device('cpu'))}, CPU, torch "
        f"{torch.__version__}, {datetime.date.today().isoformat()}.",
        "",
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
    ]
    for flops in sorted({r.flops for r in rows}, reverse=True):
        for method in dict.fromkeys(r.method for r in rows):
            own = [r for r in rows if (r.flops, r.method) == (flops, method)]
            units = ", ".join(dict.fromkeys(f"{r.units[0]} + 2 x {r.units[1]}" for r in own))
            agreements = [r.agreement for r in own]
            cells = [
                f"{flops:g}",
                f"`{method}`",
                f"{np.mean([r.kept for r in own]):.3f}",
                f"{np.mean(agreements):.2%} ({min(agreements):.2%})",
                f"{np.mean([r.accuracy for r in own]):.2%}",
                units,
                *(f"{np.median([r.speedups[b] for r in own]):.2f}" for b in batches),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *(["", note] if note else [])]) + "\n"


def main(
    flops: Annotated[list[float] | None, typer.Option(help="budgets; 0.7, 0.5 by default")] = None,
    seeds: int = 3,
    count: Annotated[int, typer.Option(help="calibration melodies")] = 1000,
    tested: Annotated[int, typer.Option(help="test melodies, in steps of 500")] = TESTED,
    batch: Annotated[list[int] | None, typer.Option(help="1 and 32 by default")] = None,
    out: Path = PAGE,
    note: Annotated[str, typer.Option(help="a paragraph for the page, about this run")] = "",
) -> None:
    """Measure and write the table."""
    torch.set_num_threads(1)
    console, net = Console(width=140), trained()
    generator = torch.Generator().manual_seed(TEST_SEED)
    parts = [draw_melodies(500, generator) for _ in range(max(1, tested // 500))]
    test = torch.cat([bands for bands, _ in parts]), torch.cat([found for _, found in parts])
    accuracy = float((logits(net, test[0]).argmax(1) == test[1]).float().mean())
    rows = []
    for budget in flops or (0.7, 0.5):
        for method in METHODS:
            for seed in range(seeds):
                about = Row(method, budget, seed, 0.0, 0.0, 0.0, (0, 0), {})
                rows.append(measure(net, test, about, count, tuple(batch or (1, 32))))
                console.print(str(rows[-1]), highlight=False)
    out.write_text(page(rows, accuracy, count, tested, note))


if __name__ == "__main__":
    typer.run(main)
