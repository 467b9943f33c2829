"""Kills by the dozens: `python -m benchmarks.kills --count 60 --out docs/resume.md`.

Rounds of a compressing run with a checkpoint, each disturbed once to three times at moments that
are drawn (signals, a full disk, a loader that fails, spoiled data, a second run in the same folder,
damaged files), and then left alone. Each disturbance must end at once or in fxprune's own error,
and leave no file half-written; each round must end in the bytes of a run that was never disturbed,
and nothing that was kept may be computed again.

With `--ranks 2` every run is one of two processes that compress together, of which one is
disturbed: the other must say so and end; the last run of a round has one to three.
"""

import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.killing.disturbances import (
    KINDS,
    LONGEST,
    Bench,
    Outcome,
    damage,
    half_written,
    worth,
)
from benchmarks.killing.page import put_in
from benchmarks.killing.processes import Ended, Told
from benchmarks.killing.runs import Job, Run, make_job, warm_up


def reference(job: Job, folder: Path, ranks: int) -> tuple[str, float, tuple[int, ...]]:
    """Digest of the result of one process without a checkpoint, seconds of so many with one, and
    sizes of its files.

    Raises:
        SystemExit: the two differ.
    """
    (plain,), _ = Run(job, None).end(LONGEST)
    start, sizes = time.monotonic(), dict[Path, int]()
    run = Run(job, folder, ranks)
    while not run.wait(0.02):
        for path in folder.rglob("*.safetensors"):
            try:
                sizes[path] = path.stat().st_size
            except FileNotFoundError:
                continue
    seconds = time.monotonic() - start
    ended, _ = run.end()
    if not plain.told.digest or others(ended, plain.told.digest):
        raise SystemExit(f"A checkpoint changes the result: {plain}, {ended}")
    return plain.told.digest, seconds, tuple(sizes.values())


def others(ended: Sequence[Ended], digest: str) -> str:
    """What processes gave in place of a result of this digest, in words; empty where nothing."""
    return "; ".join(
        f"rank {rank}: exit code {one.code}, {one.told.error or one.told.crash or 'other bytes'}"
        for rank, one in enumerate(ended)
        if one.code or one.told.digest != digest
    )


def one_round(bench: Bench, kinds: list[int], digest: str) -> tuple[list[Outcome], str]:
    """Disturb a run by these kinds, one after the other, then let it finish, with any number of
    processes if there were several; what is wrong.
    """
    found, problem = list[Outcome](), ""
    # What is damaged is found by the run that goes on, not by what disturbs it once more.
    for kind in sorted(kinds, key=lambda kind: KINDS[kind] is damage):
        kept = worth(bench.folder)
        found.append(KINDS[kind](bench))
        problem = problem or computed_again(kept, found[-1].told)
    kept = worth(bench.folder)
    ranks = bench.draw.randint(1, bench.ranks + 1) if bench.ranks > 1 else 1
    ended, hung = Run(bench.job, bench.folder, ranks).end(LONGEST)
    if hung or others(ended, digest):
        return found, f"of {ranks} processes {others(ended, digest)}"
    problem = problem or computed_again(kept, ended[0].told)
    return found, problem or half_written(bench.folder, leaves_parts=False)


def computed_again(kept: Sequence[str], told: Told) -> str:
    """Which steps a run made although they were there, in words; empty where none."""
    again = sorted(set(kept) & set(told.kept))
    return f"computed again: {', '.join(again)}" if again else ""


def tabulate(outcomes: list[Outcome]) -> list[tuple[str, ...]]:
    """A row per kind: how often, how the runs ended, the longest until the end, what was wrong."""
    rows = []
    for kind in dict.fromkeys(o.kind for o in outcomes):
        own = [o for o in outcomes if o.kind == kind]
        ends = [sum(o.ended == e for o in own) for e in ("killed", "error in words")]
        finished, longest = len(own) - sum(ends), max(o.seconds for o in own)
        wrong = sum(bool(o.wrong) for o in own)
        numbers = (len(own), *ends, finished)
        rows.append((kind, *map(str, numbers), f"{longest:.1f}", str(wrong)))
    return rows


COLUMNS = (
    *("what happened", "times", "killed", "error in words", "finished before"),
    *("longest until the end, s", "wrong"),
)


def main(
    count: Annotated[int, typer.Option("--count", "--kills", help="disturbances, at least")] = 60,
    ranks: Annotated[int, typer.Option(help="processes of every run")] = 1,
    net: Annotated[str, typer.Option(help="vgg (the demo's, trained) or small")] = "vgg",
    images: Annotated[int, typer.Option(help="calibration images")] = 500,
    flops: float = 0.5,
    agreement: Annotated[float | None, typer.Option(help="certify this, too")] = None,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="page whose table is replaced")] = None,
) -> None:
    """Disturb runs, print every one that went wrong, and a table."""
    torch.set_num_threads(1)
    console = Console(width=160, soft_wrap=True, markup=False, highlight=False)
    warm_up()
    job = make_job(net, images, {"flops": flops, "agreement": agreement})
    draw, outcomes, wrong, rounds, order = random.Random(seed), list[Outcome](), 0, 0, list[int]()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "checkpoint"
        digest, seconds, files = reference(job, folder, ranks)
        while len(outcomes) < count:
            shutil.rmtree(folder)
            bench = Bench(job, folder, seconds, files, draw, ranks)
            if len(order) < 3:
                order += draw.sample(range(len(KINDS)), len(KINDS))
            kinds = [order.pop(0) for _ in range(draw.randint(1, 3))]
            found, problem = one_round(bench, kinds, digest)
            outcomes, rounds = outcomes + found, rounds + 1
            problem = "; ".join(filter(None, (*(o.wrong for o in found), problem)))
            wrong += bool(problem)
            told = " | ".join(f"{o.kind}: {o.ended}" for o in found)
            console.print(f"{rounds} {told}: {problem or 'the same bytes'}")
    rows = tabulate(outcomes)
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    summary = (
        f"{len(outcomes)} disturbances in {rounds} rounds; {rounds - wrong} end in the same bytes"
    )
    console.print(summary)
    if out is not None:
        put_in(out, COLUMNS, rows, summary, f"{seconds:.0f}", ranks)
    if wrong:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
