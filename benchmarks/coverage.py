r"""Which architectures the mechanism holds for: capture, label propagation, channel reduction,
masked equivalence.

    python -m benchmarks.coverage --torchvision --timm 250 --transformers --json coverage.json
    # Rows are added; YOLO needs ultralytics.
    python -m benchmarks.coverage --yolo --detection --atom3d --json coverage.json
    python -m benchmarks.coverage --json coverage.json --peer torch_pruning.json \
        --markdown docs/coverage.md

Weights are random. Channels are removed at random, the same fraction of every group, until FLOPs
fall to 0.7. The shrunken graph must then equal the original with the removed channels' weights
zeroed, at batch sizes 1, 2 and 3. Every model is examined in a process of its own with a time
limit; models already in the JSON are not examined again.
"""

import json
import signal
import traceback
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.examination import coverage_page
from benchmarks.examination.examine import examine
from benchmarks.examination.isolation import Failed, isolated
from benchmarks.examination.row import Row, read
from benchmarks.models.entries import entries
from benchmarks.models.entry import Entry

GRACE = 30
"""Seconds between the alarm in a model's process and its end from outside."""


class _TooLong(BaseException):
    """Not an Exception, so that nothing on the way takes it for the model's."""


def _attempt(entry: Entry, limit: int, compiling: bool) -> Row:
    """Examine one model, whatever it raises."""

    def alarm(*_: Any) -> None:
        raise _TooLong(f"took longer than {limit} s")

    signal.signal(signal.SIGPROF, alarm)
    signal.setitimer(signal.ITIMER_PROF, limit)
    row = Row(entry.name, entry.source)
    try:
        examine(entry, row, compiling)
    except (Exception, _TooLong) as error:
        row.failure = (
            f"{type(error).__name__.strip('_')}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        )
        row.trace = traceback.format_exc()
    return row


def row_of(entry: Entry, limit: int, compiling: bool) -> Row:
    """One row, even where the model's process dies."""
    try:
        row: Row = isolated(limit + GRACE, _attempt, entry, limit, compiling)
    except Failed as failed:
        row = Row(entry.name, entry.source, failure=str(failed), trace=failed.trace)
    return row


def main(
    torchvision: Annotated[bool, typer.Option(help="All but its detectors.")] = False,
    timm: Annotated[int, typer.Option(help="How many timm families, one small member each.")] = 0,
    transformers: Annotated[bool, typer.Option(help="Tiny random configurations.")] = False,
    yolo: Annotated[bool, typer.Option(help="YOLO detectors (needs ultralytics).")] = False,
    detection: Annotated[bool, typer.Option(help="torchvision detectors' backbones.")] = False,
    voxels: Annotated[bool, typer.Option("--atom3d", help="3-D nets on voxel grids.")] = False,
    only: Annotated[str, typer.Option(help="Names that contain one of these (a,b).")] = "",
    most: Annotated[float, typer.Option(help="Most parameters, in millions.")] = 100.0,
    limit: Annotated[int, typer.Option(help="Processor seconds per model.")] = 300,
    compiling: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Try torch.compile on the result.")
    ] = True,
    again: Annotated[
        bool, typer.Option(help="Examine models that failed before once more.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where rows are kept.")] = None,
    peer: Annotated[Path | None, typer.Option(help="Rows of benchmarks.torch_pruning.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables as a page.")] = None,
    note: Annotated[str, typer.Option(help="A paragraph for the page, about this run.")] = "",
    verbose: Annotated[bool, typer.Option(help="Print tracebacks and pins.")] = False,
) -> None:
    """Examine models one after another; print a line each, and the totals."""
    torch.set_num_threads(1)
    rows = read(json_file)
    asked = entries(torchvision, timm, transformers, yolo, detection, voxels, most, only)
    for entry in asked:
        held = rows.get(entry.key)
        if held is not None and not (again and held["verdict"] == "FAIL"):
            continue
        row = row_of(entry, limit, compiling)
        if row.failure.startswith("TooLarge"):
            print(f"{entry.key}: skipped, {row.failure}", flush=True)
            continue
        rows[entry.key] = row.as_json()
        print(coverage_page.line(rows[entry.key]), flush=True)
        if verbose:
            print(row.trace, row.pinned, row.notes, row.shapes, flush=True)
        if json_file:
            json_file.write_text(json.dumps(list(rows.values()), indent=1))
    print(coverage_page.totals(list(rows.values())))
    if markdown:
        markdown.write_text(coverage_page.page(list(rows.values()), read(peer), note))


if __name__ == "__main__":
    typer.run(main)
