"""Which architectures the mechanism holds for: capture, label propagation, channel reduction,
masked equivalence.

    python -m benchmarks.coverage --torchvision --timm 250 --transformers --json coverage.json
    python -m benchmarks.coverage --yolo --detection --atom3d --json coverage.json        # rows
    are added; YOLO needs ultralytics python -m benchmarks.coverage --json coverage.json --peer
    torch_pruning.json --markdown docs/coverage.md

Weights are random. Channels are removed at random, the same fraction of every group, until FLOPs
fall to 0.7. The shrunken graph must then equal the original with the removed channels' weights
zeroed, at batch sizes 1, 2 and 3. Every model is examined in a process of its own with a time
limit; models already in the JSON are not examined again.
"""

import json
import signal
import traceback
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks import coverage_page, nets3d, zoo, zoo_detectors, zoo_transformers
from benchmarks.entry import Entry
from benchmarks.examine import Row, examine
from benchmarks.isolation import Failed, isolated

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


def entries(
    torchvision: bool,
    timm: int,
    transformers: bool,
    yolo: bool,
    detection: bool,
    voxels: bool,
    most: float,
) -> Iterator[Entry]:
    """The models asked for, the quick ones first."""
    return chain(
        zoo_transformers.transformers_models() if transformers else (),
        nets3d.models() if voxels else (),
        zoo_detectors.yolo(most) if yolo else (),
        zoo_detectors.detection(most) if detection else (),
        zoo.torchvision_models(most) if torchvision else (),
        zoo.timm_models(timm, most) if timm else (),
    )


def read(path: Path | None) -> dict[str, dict[str, Any]]:
    """Rows by `source/name`."""
    held = json.loads(path.read_text()) if path is not None and path.exists() else []
    return {f"{r['source']}/{r['name']}": r for r in held}


def main(
    torchvision: Annotated[
        bool, typer.Option(help="All classification, segmentation and video models.")
    ] = False,
    timm: Annotated[int, typer.Option(help="How many timm families, one small member each.")] = 0,
    transformers: Annotated[bool, typer.Option(help="Tiny random configurations.")] = False,
    yolo: Annotated[
        bool, typer.Option(help="YOLO detectors from their configurations (needs ultralytics).")
    ] = False,
    detection: Annotated[
        bool, typer.Option(help="torchvision detectors, compressed in their backbones.")
    ] = False,
    voxels: Annotated[
        bool, typer.Option("--atom3d", help="3-D convolutional nets on voxel grids.")
    ] = False,
    only: Annotated[
        str, typer.Option(help="Names that contain one of these, separated by commas.")
    ] = "",
    most: Annotated[
        float, typer.Option(help="Skip models of more than this many million parameters.")
    ] = 100.0,
    limit: Annotated[int, typer.Option(help="Processor seconds per model.")] = 300,
    compiling: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Try torch.compile on the result.")
    ] = True,
    again: Annotated[
        bool, typer.Option(help="Examine models that failed before once more.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Read and write the rows here.")
    ] = None,
    peer: Annotated[
        Path | None, typer.Option(help="Rows of benchmarks.torch_pruning, shown beside.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables as a page.")] = None,
    note: Annotated[str, typer.Option(help="A paragraph for the page, about this run.")] = "",
    verbose: Annotated[bool, typer.Option(help="Print tracebacks and pins.")] = False,
) -> None:
    """Examine models one after another; print a line each, and the totals."""
    torch.set_num_threads(1)
    rows = read(json_file)
    for entry in entries(torchvision, timm, transformers, yolo, detection, voxels, most):
        held = rows.get(entry.key)
        skip = held is not None and not (again and held["verdict"] == "FAIL")
        if skip or only and not any(part in entry.name for part in only.split(",")):
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
