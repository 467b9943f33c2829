"""Do the tests notice faults? `python -m benchmarks.mutations --reach REACH.json`.

Single changes of the code that decides which channels go together, rewrites, folds, lifts, captures
and certifies, drawn from a seed. Each is planted in a fork of this process, never in a file, and
the tests that run the changed lines (not the slow ones) go from the nearest until one fails.

`--reach` names what an earlier run of all tests on the same code has recorded; where the file is
not there, that run comes first (it needs `coverage`, which no other command does). `--rows` keeps
what came of each fault: those that were killed are not tried again, so that new tests are tried on
survivors only.
"""

import contextlib
import datetime
import json
import os
import subprocess
import sys
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.mutants.drawing import draw, every
from benchmarks.mutants.equivalent import EQUIVALENT
from benchmarks.mutants.page import page, totals
from benchmarks.mutants.reach import Reach, record
from benchmarks.mutants.trying import Campaign, Row, run_campaign
from fxprune.timing.clock import machine_name

ROOT = Path(__file__).resolve().parent.parent


def _stamp(seed: int, count: int) -> str:
    """Which faults, when, where and on what code."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    machine = f"{os.cpu_count()}-core {machine_name(torch.device('cpu'))}"
    return (
        f"`python -m benchmarks.mutations --reach reach.json --count {count} --seed {seed}` on "
        f"{commit or 'this code'}, {machine}, CPU, torch {version('torch').partition('+')[0]}, "
        f"{datetime.date.today()}."
    )


def _settled(row: dict[str, Any]) -> bool:
    """Whether a fault need not be tried again: killed, or known to break nothing."""
    return row["verdict"] != "survived" or row["name"] in EQUIVALENT


def main(
    reach: Annotated[Path, typer.Option(help="which tests run which lines (JSON)")],
    count: Annotated[int, typer.Option(help="faults drawn")] = 200,
    seed: int = 0,
    only: Annotated[str, typer.Option(help="names (glob)")] = "*",
    shard: Annotated[str, typer.Option(help="i/n: every n-th, from the i-th")] = "0/1",
    most: Annotated[float, typer.Option(help="seconds of tests that a fault may cost")] = 1000.0,
    tests: Annotated[str, typer.Option(help="folder or file of the tests")] = "tests",
    rows: Annotated[Path | None, typer.Option(help="a line per fault; killed ones stay")] = None,
    out: Annotated[Path | None, typer.Option(help="markdown page")] = None,
    note: Annotated[str, typer.Option(help="a paragraph for the page, about this run")] = "",
) -> None:
    """Plant them one after another; print a line each, and the totals."""
    if not reach.exists():
        record(ROOT, reach.absolute())
    known = Reach.read(reach)
    held = {}
    if rows is not None and rows.exists():
        held = {row["name"]: row for row in map(json.loads, rows.read_text().splitlines())}
    first, of = (int(part) for part in shard.split("/"))
    drawn = draw(every(ROOT), count, seed)
    wanted = [f for f in drawn if fnmatchcase(f.name, only)][first::of]
    left = [f for f in wanted if f.name not in held or not _settled(held[f.name])]

    def take(row: Row) -> None:
        held[row.name] = row.as_json()
        print(f"{row.verdict} {row.seconds:.0f} s: {row.name} [{row.by}]", file=sys.stderr)
        if rows is not None:
            with rows.open("a") as file:
                file.write(json.dumps(row.as_json()) + "\n")

    with contextlib.chdir(ROOT):
        if left:
            run_campaign(Campaign(ROOT, left, known, most, take), tests)
    done = [held[fault.name] for fault in drawn if fault.name in held]
    print(totals(done, EQUIVALENT))
    if out is not None:
        out.write_text(page(done, EQUIVALENT, _stamp(seed, len(done)), note))


if __name__ == "__main__":
    typer.run(main)
