"""Bad input by the hundreds: `python -m benchmarks.abuse`.

Every keyword of every public function gets every odd value; models and loaders of odd kinds; every
option of the command line odd texts and damaged files. Each must work, or give an error of
fxprune's that says something (one line on stderr, no traceback), within ten seconds, and leave the
caller's model, random state and settings as they were. TypeErrors of Python itself for unknown
keywords, and the command line's own usage errors, are right.
"""

import contextlib
import random
import tempfile
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.abuses.calls import python_abuses
from benchmarks.abuses.judge import Abuse, Outcome, judge
from benchmarks.abuses.known import KNOWN
from benchmarks.abuses.lines import line_abuses


def every(folder: Path) -> list[Abuse]:
    """All abuses, in a fixed order.

    Args:
        folder: for files.
    """
    return [*python_abuses(folder), *line_abuses(folder)]


def draw(abuses: list[Abuse], count: int, seed: int) -> list[Abuse]:
    """That many, of every kind in turn."""
    left = abuses.copy()
    random.Random(seed).shuffle(left)
    turns = Counter[str]()
    numbered = []
    for at, abuse in enumerate(left):
        numbered.append((turns[abuse.kind], at))
        turns[abuse.kind] += 1
    return [left[at] for _, at in sorted(numbered)[:count]]


def known(outcome: Outcome) -> bool:
    """A violation that is known and not yet mended."""
    return outcome.verdict == "violation" and any(
        fnmatchcase(outcome.abuse.name, pattern.replace("[", "[[]")) for pattern in KNOWN
    )


def tabulate(outcomes: list[Outcome]) -> Table:
    """A row per kind of abuse."""
    columns = ("works", "refused", "violation", "known, not yet mended")
    table = Table("kind", "abuses", *columns, "slowest")
    kinds = list(dict.fromkeys(o.abuse.kind for o in outcomes))
    for kind in (*kinds, "all"):
        of = [o for o in outcomes if kind in (o.abuse.kind, "all")]
        counts = Counter(columns[3] if known(o) else o.verdict for o in of)
        slowest = max((o.seconds for o in of), default=0.0)
        row = [str(counts[column]) for column in columns]
        table.add_row(kind, str(len(of)), *row, f"{slowest:.1f} s", end_section=kind == kinds[-1])
    return table


def main(
    sample: Annotated[int, typer.Option(help="that many, drawn; 0 for all")] = 0,
    seed: int = 0,
    only: Annotated[str, typer.Option(help="names (glob)")] = "*",
    shard: Annotated[str, typer.Option(help="i/n: every n-th, from the i-th")] = "0/1",
    out: Annotated[Path | None, typer.Option(help="a line per abuse")] = None,
) -> None:
    """Try them, print every violation and a table."""
    torch.set_num_threads(1)
    console = Console(width=160, soft_wrap=True, markup=False, highlight=False)
    first, of = (int(part) for part in shard.split("/"))
    outcomes = []
    out = out and out.absolute()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        chosen = [a for a in every(Path(folder)) if fnmatchcase(a.name, only)]
        if sample:
            chosen = draw(chosen, sample, seed)
        for abuse in chosen[first::of]:
            outcome = judge(abuse)
            outcomes.append(outcome)
            if out is not None:
                with out.open("a") as file:
                    seconds = f"{outcome.seconds:.2f}"
                    file.write("\t".join((outcome.verdict, seconds, abuse.name, outcome.text)))
                    file.write("\n")
            if outcome.verdict == "violation":
                mark = "known, not yet mended" if known(outcome) else "violation"
                console.print(f"{mark}: {abuse.name}: {outcome.text}")
    console.print(tabulate(outcomes))
    if any(o.verdict == "violation" and not known(o) for o in outcomes):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
