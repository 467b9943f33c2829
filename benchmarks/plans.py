"""What a plan promises and what a trial of it shows: `python -m benchmarks.plans`.

After uniform widths were tried, every other plan's error is foreseen; here all of them are tried, on the calibration images alone.
"""

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from benchmarks.data import DEBIAN, split
from benchmarks.nets import NETS, trained
from benchmarks.tradeoff import draw, opened
from fxprune import allocate
from fxprune.construct import surviving_channels, trial
from fxprune.search import PROMISE, Option, Search
from fxprune.session import Session, undisturbed


def tried(session: Session, flops: float) -> list[tuple[Option, float, float]]:
    """Plans, what each promises after the first of them, uniform widths, was tried, and what its own trial shows."""
    limits = {"flops": flops}
    profiles = session.profile("output-aware")
    valid = allocate.Widths(session.analysis.groups, profiles, session.round_to, session.floor)
    search = Search(session, profiles, session.costs(limits), valid, limits, ranked=True)
    found = []
    for option in search.options():
        error = trial(session, surviving_channels(session, profiles, option.widths), option.ranks)
        if not search.tried:
            search.tried.append((error, option))
        found.append((option, search.promise(option) / (PROMISE if option.ranks else 1), error))
    return found


def main(
    net: Annotated[list[str] | None, typer.Option(help="networks; all by default")] = None,
    flops: Annotated[list[float] | None, typer.Option(help="budgets; 0.7, 0.5 and 0.35 by default")] = None,
    images: Annotated[int, typer.Option(help="for calibration")] = 1000,
    seed: int = 0,
    data: Path = DEBIAN,
) -> None:
    """Print a line per plan and a summary per network."""
    console = Console(width=140)
    calibration = draw(split("calibration", data).images, images, seed)
    table = Table(title="Relative error of the output, x 1e-4", title_justify="left")
    for column in ("net", "FLOPs", "mix", "stretch", "layers in two", "promised", "tried"):
        table.add_column(column, justify="left" if column == "net" else "right")
    lines = []
    for name in net or list(NETS):
        model = trained(name)
        session, pairs = opened(model, calibration, seed), []
        for budget in flops or [0.7, 0.5, 0.35]:
            with undisturbed(model, seed):
                rows = tried(session, budget)
            for option, promised, error in rows:
                cells = (f"{option.mix:g}", f"{option.stretch:g}", str(len(option.ranks)), f"{1e4 * promised:.1f}", f"{1e4 * error:.1f}")
                table.add_row(name, f"{budget:g}", *cells)
            pairs += [(promised, error) for _, promised, error in rows[1:]]
        excess = np.log([error / promised for promised, error in pairs])
        lines.append(
            f"{name}: rank correlation {spearmanr(*zip(*pairs, strict=True))[0]:.2f} over {len(pairs)} plans; a trial shows "
            f"{math.exp(float(np.median(excess))):.2f} times what was promised (quartiles {math.exp(float(np.quantile(excess, 0.25))):.2f} to "
            f"{math.exp(float(np.quantile(excess, 0.75))):.2f})."
        )
    console.print(table)
    for line in lines:
        console.print(line, highlight=False)


if __name__ == "__main__":
    typer.run(main)
