r"""How often the certified bound holds: `python -m benchmarks.certificate --markdown
docs/certificate.md`.

Every row is many certifications of a model whose true agreement is known: it decides like the
original on everything it was fitted on, and else wrongly as often as is set, by the input, in
outputs of every kind that a rule is for. The loader, the draw of the held-out examples, the
settling of the rule, the comparison and the bound are fxprune's own. Then whole calls of `compress`
on tiny networks, and the bounds that could have been chosen. Half an hour on one core; the command
fails where what is promised does not hold in more runs than 5 % and chance allow.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.examination import certifying, whole_calls
from benchmarks.examination.certificate_page import page
from benchmarks.examination.cluster_bounds import compared


def main(
    runs: Annotated[int, typer.Option(help="Certifications a row.")] = 200,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables as a page.")] = None,
) -> None:
    """Print a line per row; exit with 1 where a promise fails too often."""
    torch.set_num_threads(1)
    rows, calls = {}, {}
    for row in certifying.rows():
        rows[row] = certifying.run(row, runs)
        print(row, rows[row], flush=True)
    for call in whole_calls.calls():
        calls[call] = whole_calls.run(call, runs)
        print(call, *calls[call], flush=True)
    bounds = {
        (groups, each, correlation): compared(groups, each, correlation, runs)
        for groups in (20, 50, 300)
        for each in (10, 50)
        for correlation in (0.0, 0.1, 0.5, 1.0)
    }
    if markdown:
        markdown.write_text(page(rows, calls, bounds))
    promised = [(row, found) for row, found in rows.items() if row.must_hold]
    promised += [(call, found) for call, (found, _) in calls.items()]  # type: ignore[misc]
    failed = [what for what, found in promised if not found.sound]
    print(f"{len(failed)} of {len(promised)} promised rows fail: {failed}")
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
