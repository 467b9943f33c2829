"""The error predicted of a candidate and what a trial of it shows: `python -m benchmarks.plans`.

After uniform widths were tried, every other candidate's error is predicted; here all of them are
tried, on the calibration images alone. With `--finished` each is also fitted on all of these, and
its error measured on 2,000 images of the calibration pool outside the draw.
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
from fxprune.allocate.prediction import RANKS_HANDICAP
from fxprune.allocate.problem import Candidate, pose
from fxprune.allocate.search import Search
from fxprune.calibrate.loader import Calibration
from fxprune.capture.undisturbed import undisturbed
from fxprune.fit.build import build, trial_error
from fxprune.session import Session
from fxprune.verify.agreement import compare

OUTSIDE = 2000
"""Images that measure finished plans."""
COLUMNS = ("net", "FLOPs", "mix", "slack", "layers in two", "predicted", "tried", "finished")


def tried(
    session: Session, flops: float, others: Tensor | None = None
) -> list[tuple[Candidate, float, float, float]]:
    """Candidates, the error predicted of each after the first of them, uniform widths, was tried,
    what its own trial shows, and its error on other images.
    """
    problem = pose(session, {"flops": flops})
    search = Search(problem, ranked=True)
    found = []
    for candidate in search.candidates():
        keep_mask = problem.keep_mask(candidate.widths)
        error = trial_error(session, keep_mask, candidate.ranks)
        if not search.tried:
            search.tried.append((error, candidate))
        finished = math.nan
        if others is not None:
            small = build(session, keep_mask, candidate.ranks)
            finished = compare(
                session.graph, small, Calibration(session.model, others).batches()
            ).error
        handicap = RANKS_HANDICAP if candidate.ranks else 1
        found.append((candidate, search.predicted_error(candidate) / handicap, error, finished))
    return found


class Findings:
    """What was predicted of one network's candidates, what trials showed, and how they ended."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pairs: list[tuple[float, float]] = []
        """Predicted and shown by a trial, of every candidate but the first of its budget."""
        self.ranks: list[float] = []
        """By budget, the rank correlation of trials with finished models."""
        self.excess: list[float] = []
        """By budget, error of the candidate with the best trial over that of the best one."""

    def add(self, rows: list[tuple[Candidate, float, float, float]], finished: bool) -> None:
        """Take the candidates of one budget."""
        self.pairs += [(predicted, error) for _, predicted, error, _ in rows[1:]]
        if finished:
            shown, ends = zip(*(row[2:] for row in rows), strict=True)
            self.ranks.append(float(spearmanr(shown, ends)[0]))
            self.excess.append(ends[int(np.argmin(shown))] / min(ends))

    def lines(self) -> Iterator[str]:
        """The summary."""
        excess = np.log([error / predicted for predicted, error in self.pairs])
        low, middle, high = (math.exp(float(q)) for q in np.quantile(excess, [0.25, 0.5, 0.75]))
        yield (
            f"{self.name}: rank correlation "
            f"{spearmanr(*zip(*self.pairs, strict=True))[0]:.2f} over {len(self.pairs)} plans; "
            f"a trial shows {middle:.2f} times what was predicted (quartiles {low:.2f} to "
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
    """Print a line per candidate and a summary per network."""
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
            for candidate, *errors in rows:
                what = (f"{candidate.mix:g}", f"{candidate.slack:g}", str(len(candidate.ranks)))
                table.add_row(name, f"{budget:g}", *what, *(f"{1e4 * e:.1f}" for e in errors))
            findings.add(rows, finished)
        lines += findings.lines()
    console.print(table)
    for line in lines:
        console.print(line, highlight=False)


if __name__ == "__main__":
    typer.run(main)
