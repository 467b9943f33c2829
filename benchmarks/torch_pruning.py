r"""The coverage models under Torch-Pruning (Fang et al. 2023), with its defaults, for the column
beside ours.

    python -m venv peer
    peer/bin/pip install torch-pruning==1.6.1 torch==2.13.0 torchvision timm transformers rich ...
    peer/bin/python -m benchmarks.torch_pruning --torchvision --timm 250 --transformers --atom3d \
        --json torch_pruning.json

Each model is pruned by `MagnitudePruner` with an L2 importance and default options, the layer that
makes the outputs ignored as in its examples. Ratios are tried from small to large, each on a fresh
model, until a quarter of the FLOPs is gone. A model counts as passed where the pruned one runs and
a tenth of the FLOPs is gone; whether its outputs are right is not asked. Models in the JSON are
not run again.
"""

import json
import os
import warnings
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from benchmarks.examination.coverage_page import late
from benchmarks.examination.isolation import Failed, isolated
from benchmarks.examination.masked import randomize
from benchmarks.examination.outputs import outputs
from benchmarks.examination.row import ENOUGH, read
from benchmarks.models.entries import entries
from benchmarks.models.entry import Entry
from benchmarks.models.peer import last_layers
from fxprune.calibrate.loader import Calibration
from fxprune.capture.batch import Batch, example_batch
from fxprune.label.flops import count_flops
from fxprune.targets import Passing

RATIOS = (0.16, 0.3, 0.5)
GOAL = 0.75


def _built(entry: Entry) -> tuple[nn.Module, Batch]:
    torch.manual_seed(0)
    model, example = entry.build()
    model.eval()
    randomize(model)
    if not entry.target:
        return model, example_batch(model, example)
    return model.get_submodule(entry.target), next(
        iter(Passing(model, entry.target, Calibration(model, example)))
    )


def prune(entry: Entry, ratio: float) -> float:
    """FLOPs left, as a share, after pruning at one ratio; the pruned model has run.

    Raises:
        Exception: whatever Torch-Pruning or the pruned model raises.
    """
    import torch_pruning

    model, batch = _built(entry)
    before, found = count_flops(model, batch), outputs(model, batch)
    inputs: Any = batch.kwargs or (batch.args[0] if len(batch.args) == 1 else batch.args)
    pruner = torch_pruning.pruner.MagnitudePruner(
        model,
        inputs,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=last_layers(model, found),
    )
    pruner.step()
    return count_flops(model.eval(), batch) / max(before, 1)


def _children() -> float:
    """Processor seconds of all processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def row_of(entry: Entry, limit: int) -> dict[str, Any]:
    """The largest reduction among the ratios that run, within the time for one model."""
    row: dict[str, Any] = {
        "name": entry.name,
        "source": entry.source,
        "counted": 1.0,
        "ratio": 0.0,
        "failure": "",
    }
    start = _children()
    for ratio in RATIOS:
        try:
            left = isolated(max(limit - round(_children() - start), 1), prune, entry, ratio)
        except Failed as failed:
            row["failure"] = row["failure"] or str(failed)
            continue
        if left < row["counted"]:
            row |= {"counted": left, "ratio": ratio}
        if left <= GOAL:
            break
    return row | {"passed": row["counted"] <= ENOUGH}


def main(
    torchvision: Annotated[bool, typer.Option()] = False,
    timm: Annotated[int, typer.Option()] = 0,
    transformers: Annotated[bool, typer.Option()] = False,
    yolo: Annotated[bool, typer.Option()] = False,
    detection: Annotated[bool, typer.Option()] = False,
    voxels: Annotated[bool, typer.Option("--atom3d")] = False,
    only: Annotated[
        str, typer.Option(help="Names that contain one of these, separated by commas.")
    ] = "",
    most: Annotated[
        float, typer.Option(help="Skip models of more than this many million parameters.")
    ] = 100.0,
    limit: Annotated[int, typer.Option(help="Processor seconds per model.")] = 150,
    again: Annotated[bool, typer.Option(help="Run models whose time was up once more.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Read and write the rows here.")
    ] = None,
) -> None:
    """Run Torch-Pruning on the coverage models, one after another; options as for
    benchmarks.coverage.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = read(json_file)
    asked = entries(torchvision, timm, transformers, yolo, detection, voxels, most, only)
    for entry in asked:
        held = rows.get(entry.key)
        if held is not None and not (again and late(held)):
            continue
        row = row_of(entry, limit)
        if row["failure"].startswith("TooLarge"):
            continue
        rows[entry.key] = row
        print(
            f"{entry.key}: {'pass' if row['passed'] else 'FAIL'} {row['counted']:.2f} at "
            f"{row['ratio']} {row['failure']}",
            flush=True,
        )
        if json_file:
            json_file.write_text(json.dumps(list(rows.values()), indent=1))
    print(f"{sum(r['passed'] for r in rows.values())} of {len(rows)} pass")


if __name__ == "__main__":
    typer.run(main)
