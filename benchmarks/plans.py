"""What a plan promises and what a trial of it shows: `python -m benchmarks.plans`.

After uniform widths were tried, every other plan's error is foreseen; here all of them are tried,
on the calibration images alone. With `--finished` each is also fitted on all of these, and its
error measured on 2,000 images of the calibration pool outside the draw.
"""

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.data import DEBIAN, split
from benchmarks.nets import NETS, trained
from benchmarks.tradeoff import draw, opened
from fxprune.allocate import widths as allocate
from fxprune.allocate.search import PROMISE, Candidate, Search
from fxprune.calibrate.loader import Calibration
from fxprune.capture.undisturbed import undisturbed
from fxprune.fit.build import build, surviving_channels, trial
from fxprune.session import Session
from fxprune.verify.agreement import compare

OUTSIDE = 2000
"""Images that measure finished plans."""


def tried(
    session: Session, flops: float, others: Tensor | None = None
) -> list[tuple[Candidate, float, float, float]]:
    """Plans, what each promises after the first of them, uniform widths, was tried, what its own
    trial shows, and its error on other images.
    """
    limits = {"flops": flops}
    profiles = session.profile("output-aware")
    valid = allocate.Widths(session.analysis.groups, profiles, session.round_to, session.floor)
    search = Search(session, profiles, session.costs(limits), valid, limits, ranked=True)
    found = []
    for option in search.options():
        keep_mask = surviving_channels(session, profiles, option.widths)
        error = trial(session, keep_mask, option.ranks)
        if not search.tried:
            search.tried.append((error, option))
        finished = math.nan
        if others is not None:
            small = build(session, keep_mask, "auto", option.ranks)
            finished = compare(
                session.graph, small, Calibration(session.model, others).batches()
            ).error
        found.append(
            (option, search.promise(option) / (PROMISE if option.ranks else 1), error, finished)
        )
    return found


def main(
    net: Annotated[list[str] | None, typer.Option(help="networks; all by default")] = None,
    flops: Annotated[
        list[float] | None, typer.Option(help="budgets; 0.7, 0.5 and 0.35 by default")
    ] = None,
    images: Annotated[int, typer.Option(help="for calibration")] = 1000,
    seed: int = 0,
    finished: Annotated[
        bool, typer.Option("--finished", help="fit every plan to the end, too")
    ] = False,
    data: Path = DEBIAN,
) -> None:
    """Print a line per plan and a summary per network."""
    console = Console(width=140)
    pool = split("calibration", data).images
    drawn = draw(pool, len(pool), seed)
    calibration, others = drawn[:images], drawn[images : images + OUTSIDE] if finished else None
    table = Table(title="Relative error of the output, x 1e-4", title_justify="left")
    for column in (
        "net",
        "FLOPs",
        "mix",
        "stretch",
        "layers in two",
        "promised",
        "tried",
        "finished",
    ):
        table.add_column(column, justify="left" if column == "net" else "right")
    lines = []
    for name in net or list(NETS):
        model = trained(name)
        session, pairs, spoils = opened(model, calibration, seed), [], []
        for budget in flops or [0.7, 0.5, 0.35]:
            with undisturbed(model, seed):
                rows = tried(session, budget, others)
            for option, *errors in rows:
                cells = (f"{1e4 * e:.1f}" for e in errors)
                table.add_row(
                    name,
                    f"{budget:g}",
                    f"{option.mix:g}",
                    f"{option.stretch:g}",
                    str(len(option.ranks)),
                    *cells,
                )
            pairs += [(promised, error) for _, promised, error, _ in rows[1:]]
            shown, ends = zip(*(row[2:] for row in rows), strict=True)
            if not finished:
                continue
            spoils.append((spearmanr(shown, ends)[0], ends[int(np.argmin(shown))] / min(ends)))
        excess = np.log([error / promised for promised, error in pairs])
        lines.append(
            f"{name}: rank correlation {spearmanr(*zip(*pairs, strict=True))[0]:.2f} over "
            f"{len(pairs)} plans; a trial shows "
            f"{math.exp(float(np.median(excess))):.2f} times what was promised (quartiles "
            f"{math.exp(float(np.quantile(excess, 0.25))):.2f} to "
            f"{math.exp(float(np.quantile(excess, 0.75))):.2f})."
        )
        if finished:
            lines.append(
                f"{name}: rank correlation of trials with finished plans "
                f"{', '.join(f'{r:.2f}' for r, _ in spoils)} by budget; the plan with the "
                f"best trial errs {', '.join(f'{r:.2f}' for _, r in spoils)} times as much as the "
                "best finished one."
            )
    console.print(table)
    for line in lines:
        console.print(line, highlight=False)


if __name__ == "__main__":
    typer.run(main)
