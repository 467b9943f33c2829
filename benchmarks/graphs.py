"""Random networks by the thousands: `python -m benchmarks.graphs --minutes 60`.

Each is written from a seed, reduced at random, and must equal the masked original in double
precision; docs/graphs.md says what that is in full, and how many were. Shards add up in a ledger,
one line for every few hundred networks; a run goes on where the ledger ends. Processes that run at
the same time take `--shard 0/2` and `--shard 1/2`.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.random_graphs.judge import COMPRESSED, EXACT, EXPORTED, Outcome, judge
from benchmarks.random_graphs.ledger import (
    Shard,
    append,
    code_version,
    following,
    read,
    together,
    writer_version,
)
from benchmarks.random_graphs.page import bound, page
from benchmarks.random_graphs.recipe import draw_recipe, write
from benchmarks.random_graphs.shrink import is_failure, shrink, snippet

ENTRY = 200
"""Networks per line of the ledger."""
console = Console(width=160, soft_wrap=True, markup=False, highlight=False)


def run(seeds: Iterator[int], step: int, ledger: Path | None, until: float) -> list[Shard]:
    """Judge networks until the seeds or the time end; every few hundred become an entry.

    Args:
        seeds: in steps of `step`.
        step: of the seeds.
        ledger: where entries are added; None keeps them.
        until: seconds of `time.monotonic`.
    """
    version, writer, shards = code_version(), writer_version(), list[Shard]()
    shard: Shard | None = None
    for seed in seeds:
        if time.monotonic() > until:
            break
        outcome = judge(draw_recipe(seed))
        shard = shard or Shard(seed, seed, step, version, writer)
        shard.add(outcome)
        if is_failure(outcome):
            show(outcome)
        if shard.count == ENTRY:
            shards.append(_enter(shard, ledger))
            shard = None
    if shard is not None:
        shards.append(_enter(shard, ledger))
    return shards


def _enter(shard: Shard, ledger: Path | None) -> Shard:
    if ledger is not None:
        append(ledger, shard)
    return shard


def show(outcome: Outcome) -> None:
    """One line."""
    text = " ".join(outcome.text.split())[:300]
    console.print(f"{outcome.seed} {outcome.lane} {outcome.verdict}: {text}")


def main(
    graphs: Annotated[int, typer.Option(help="At most so many networks.")] = 1 << 60,
    seed: Annotated[int | None, typer.Option(help="The first; else where the ledger ends.")] = None,
    shard: Annotated[str, typer.Option(help="i/n: every n-th seed, from the i-th.")] = "0/1",
    minutes: Annotated[float, typer.Option(help="At most so many.")] = 10.0,
    ledger: Annotated[Path, typer.Option(help="JSON lines.")] = Path("docs/graphs.jsonl"),
    out: Annotated[Path | None, typer.Option(help="The page, of the whole ledger.")] = None,
    only: Annotated[int | None, typer.Option(help="One seed, with its source.")] = None,
    shrinking: Annotated[int | None, typer.Option("--shrink", help="A seed that fails.")] = None,
    replay: Annotated[
        bool, typer.Option(help="Every seed that failed, as far as it is written alike.")
    ] = False,
) -> None:
    """Judge random networks, print every failure and the bound on their rate."""
    torch.set_num_threads(1)
    if only is not None:
        console.print(write(draw_recipe(only)).source)
        show(judge(draw_recipe(only)))
        return
    if shrinking is not None:
        recipe = draw_recipe(shrinking)
        outcome = judge(recipe)
        show(outcome)
        if is_failure(outcome):
            console.print(snippet(shrink(recipe, outcome)))
        return
    held = read(ledger)
    if replay:
        same = [entry for entry in held if entry.writer == writer_version()]
        for failure in together(same).failures:
            show(judge(draw_recipe(failure[0]), failure[1]))
        return
    residue, step = (int(part) for part in shard.split("/"))
    first = following(held, residue, step) if seed is None else seed + residue
    seeds = iter(range(first, first + step * min(graphs, 1 << 40), step))
    total = together(run(seeds, step, ledger, time.monotonic() + 60 * minutes))
    failed = len(total.failures)
    console.print(f"{total.count} networks, {dict(total.verdicts)}")
    judged = failed + total.verdicts["equal"]
    console.print(f"failure rate of those reduced: at most {bound(failed, judged):.2e} (95 %)")
    if out is not None:
        out.write_text(page(read(ledger), code_version(), EXACT, EXPORTED, COMPRESSED))
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
