"""What a plan promises and what a trial of it shows: `python -m benchmarks.plans`.

After uniform widths were tried, every other plan's error is foreseen; here all of them are tried,
on the calibration images alone. With `--finished` each is also fitted on all of these, and its
error measured on 2,000 images of the calibration pool outside the draw.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.datasets.images import DEBIAN, draw, split
from benchmarks.examination.opened import opened
from benchmarks.models.nets import NETS, trained
from fxprune.allocate import widths as allocate
from fxprune.allocate.search import PROMISE, Candidate, Search
from fxprune.calibrate.loader import Calibration
from fxprune.capture.undisturbed import undisturbed
from fxprune.fit.build import build, surviving_channels, trial
from fxprune.session import Session
from fxprune.verify.agreement import compare

OUTSIDE = 2000
"""Images that measure finished plans."""
COLUMNS = ("net", "FLOPs", "mix", "stretch", "layers in two", "promised", "tried", "finished")


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


class Findings:
    """What the plans of one network promised, what their trials showed, and how they ended."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pairs: list[tuple[float, float]] = []
        """Promise and trial of every plan but the first of its budget."""
        self.ranks: list[float] = []
        """By budget, the rank correlation of trials with finished plans."""
        self.excess: list[float] = []
        """By budget, error of the plan with the best trial over that of the best finished one."""

    def add(self, rows: list[tuple[Candidate, float, float, float]], finished: bool) -> None:
        """Take the plans of one budget."""
        self.pairs += [(promised, error) for _, promised, error, _ in rows[1:]]
        if finished:
            shown, ends = zip(*(row[2:] for row in rows), strict=True)
            self.ranks.append(float(spearmanr(shown, ends)[0]))
            self.excess.append(ends[int(np.argmin(shown))] / min(ends))

    def lines(self) -> Iterator[str]:
        """The summary."""
        excess = np.log([error / promised for promised, error in self.pairs])
        low, middle, high = (math.exp(float(q)) for q in np.quantile(excess, [0.25, 0.5, 0.75]))
        yield (
            f"{self.name}: rank correlation "
            f"{spearmanr(*zip(*self.pairs, strict=True))[0]:.2f} over {len(self.pairs)} plans; "
            f"a trial shows {middle:.2f} times what was promised (quartiles {low:.2f} to "
            f"{high:.2f})."
        )
        if self.ranks:
            yield (
                f"{self.name}: rank correlation of trials with finished plans "
                f"{', '.join(f'{r:.2f}' for r in self.ranks)} by budget; the plan with the best "
                f"trial errs {', '.join(f'{r:.2f}' for r in self.excess)} times as much as the "
                "best finished one."
            )


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
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "net" else "right")
    lines: list[str] = []
    for name in net or list(NETS):
        model, findings = trained(name), Findings(name)
        session = opened(model, calibration, seed)
        for budget in flops or [0.7, 0.5, 0.35]:
            with undisturbed(model, seed):
                rows = tried(session, budget, others)
            for option, *errors in rows:
                what = (f"{option.mix:g}", f"{option.stretch:g}", str(len(option.ranks)))
                table.add_row(name, f"{budget:g}", *what, *(f"{1e4 * e:.1f}" for e in errors))
            findings.add(rows, finished)
        lines += findings.lines()
    console.print(table)
    for line in lines:
        console.print(line, highlight=False)


if __name__ == "__main__":
    typer.run(main)
