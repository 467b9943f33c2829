"""Every operator of torch's test database between layers: `python -m benchmarks.operators`.

Each entry of torch's OpInfo database becomes nets *linear -> operator -> linear*, and what the
labels claim of them is checked by perturbation. Exits with 1 where a claim is wrong, where a rule
was caught by the trial, or on an error.
"""

from collections import Counter
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.opinfo.claims import MASKS
from benchmarks.opinfo.isolated import judge_apart, read_records, to_json
from benchmarks.opinfo.outcome import MUST_BE_NONE, VERDICTS, Outcome, judge
from benchmarks.opinfo.page import page
from benchmarks.opinfo.variants import entries


def main(
    only: Annotated[str, typer.Option(help="names (glob)")] = "*",
    shard: Annotated[str, typer.Option(help="i/n: every n-th, from the i-th")] = "0/1",
    variants: Annotated[int, typer.Option(help="nets per entry, beside other names")] = 6,
    seed: int = 0,
    records: Annotated[
        list[Path] | None,
        typer.Option(help="lines of outcomes; not judged again, and new ones go to the first"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="the page, of these and the records")] = None,
) -> None:
    """Judge them, and print what must not be and the counts."""
    torch.set_num_threads(1)
    console = Console(width=160, soft_wrap=True, markup=False, highlight=False)
    first, of = (int(part) for part in shard.split("/"))
    known = read_records(records or [])
    chosen = {n: op for n, op in entries().items() if fnmatchcase(n, only)}
    outcomes: list[Outcome] = []
    warm = False
    for name, op in list(chosen.items())[first::of]:
        if name not in known:
            if not warm:  # what torch imports when it first captures, every fork has
                judge("abs", entries()["abs"], 1, seed)
                warm = True
            known[name] = judge_apart(name, op, variants, seed)
            if records:
                with records[0].open("a") as file:
                    file.write(to_json(known[name]) + "\n")
        outcomes.append(known[name])
        if known[name].verdict in MUST_BE_NONE:
            console.print(f"{known[name].verdict}: {name}: {known[name].text}")
    counts = Counter(outcome.verdict for outcome in outcomes)
    console.print(", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS))
    if out is not None:
        date = datetime.now(UTC).date().isoformat()
        out.write_text(page(outcomes, variants, MASKS, date))
    if any(counts[verdict] for verdict in MUST_BE_NONE):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
