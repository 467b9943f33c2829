"""The command line: `fxprune demo`, `analyze`, `compress`, `recover`, `bench` and `report`."""

import json
import os
from pathlib import Path
from tempfile import TemporaryFile

import typer
from torch.fx import GraphModule

import fxprune
from fxprune.cli import options, sources
from fxprune.cli.groups import read_groups
from fxprune.cli.options import (
    parse_augment,
    parse_decision,
    parse_multiple,
    read_example,
    read_loader,
)
from fxprune.cli.output import print_errors_as_lines, show, tabulate, write_json
from fxprune.demo import run as demo_run
from fxprune.errors import PlanError, SourceError
from fxprune.options import DEFAULTS
from fxprune.recovery.training import Training
from fxprune.timing.benchmark import MODES

app = typer.Typer(
    help="Make trained PyTorch models smaller and faster without fine-tuning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
SAVED = "model.safetensors"
"""The compressed model in the folder that `compress --out` writes."""
RESULTS = (SAVED, "plan.json", "report.json")
"""All that is in it."""
TRAINING = Training()


@app.command()
@print_errors_as_lines
def demo(flops: options.Share = 0.5, seed: int = 0, as_json: options.Json = False) -> None:
    """Compress a small trained network that comes with fxprune and show what it costs and gains."""
    result = demo_run.run(flops, seed)
    show(result, json.dumps(result.to_dict()), as_json)


@app.command()
@print_errors_as_lines
def analyze(
    model: options.Model,
    shape: options.Shape = "",
    data: options.Data = "",
    size: options.Size = 224,
    gray: options.Gray = False,
    ignore: options.Ignore = None,
    as_json: options.Json = False,
) -> None:
    """List the channel groups of a model and what is left alone, with reasons; reads no weights."""
    net = sources.model(model)
    example = read_example(net, shape, data, size, gray)
    analysis = fxprune.analyze(net, example, ignore=ignore or ())
    show(tabulate(analysis), write_json(analysis), as_json)


@app.command()
@print_errors_as_lines
def compress(
    model: options.Model,
    data: options.Data,
    weights: options.Weights = None,
    flops: options.Flops = None,
    params: options.Params = None,
    agreement: options.Agreement = None,
    latency: options.Latency = None,
    latency_batch: options.LatencyBatch = 1,
    compiled: options.Compiled = False,
    method: options.Method = "auto",
    selector: options.Selector = "output-aware",
    decision: options.Decision = None,
    ignore: options.Ignore = None,
    round_to: options.Multiple = "",
    effort: options.Effort = DEFAULTS.effort,
    seed: int = 0,
    batch: options.Examples = 50,
    limit: options.Limit = None,
    groups: options.Groups = "",
    size: options.Size = 224,
    gray: options.Gray = False,
    mean: options.Numbers = "",
    std: options.Numbers = "",
    out: options.Out = None,
    as_json: options.Json = False,
) -> None:
    """Compress a model and print the report."""
    check_folder(out)
    net = sources.model(model, weights)
    loader = read_loader(data, batch, limit, size, gray, mean, std)
    small = fxprune.compress(
        net,
        loader,
        flops=flops,
        params=params,
        agreement=agreement,
        latency=latency,
        workload=fxprune.Workload(latency_batch, compiled),
        method=method,
        selector=selector,
        decision=parse_decision(decision),
        groups=read_groups(groups, data, loader, limit),
        ignore=ignore or (),
        round_to=parse_multiple(round_to),
        effort=effort,
        seed=seed,
    )
    write_results(small, out)
    show_report(fxprune.report(small), as_json)


def show_report(result: fxprune.Report, as_json: bool) -> None:
    """Print a report."""
    show(result, result.to_json(), as_json)


@app.command()
@print_errors_as_lines
def recover(
    small: options.Saved,
    original: options.Model,
    data: options.Data,
    out: options.To,
    weights: options.Weights = None,
    minutes: options.Minutes = None,
    steps: options.Steps = None,
    epochs: options.Epochs = None,
    rate: options.Rate = None,
    optimizer: options.Optimizer = TRAINING.optimizer,
    train_batch: options.TrainBatch = TRAINING.batch,
    augment: options.Augment = None,
    labels: options.Labels = False,
    checkpoint: options.Checkpoint = None,
    decision: options.Decision = None,
    seed: int = 0,
    batch: options.Examples = 50,
    limit: options.Limit = None,
    groups: options.Groups = "",
    size: options.Size = 224,
    gray: options.Gray = False,
    mean: options.Numbers = "",
    std: options.Numbers = "",
    as_json: options.Json = False,
) -> None:
    """Train a saved compressed model, without labels, to what its original gives."""
    check_folder(out)
    net = sources.model(original, weights)
    loader = read_loader(data, batch, limit, size, gray, mean, std)
    better = fxprune.recover(
        fxprune.load(small / SAVED if small.is_dir() else small),
        net,
        loader,
        minutes=minutes,
        steps=steps,
        epochs=epochs,
        training=fxprune.Training(rate=rate, optimizer=optimizer, batch=train_batch),
        augment=parse_augment(augment),
        labels=labels,
        decision=parse_decision(decision),
        groups=read_groups(groups, data, loader, limit),
        checkpoint=checkpoint,
        seed=seed,
    )
    if os.environ.get("RANK", "0") != "0":  # of several processes, the first one writes
        return
    write_results(better, out)
    result = fxprune.report(better)
    show(result, result.to_json(), as_json)


def check_folder(folder: Path | None) -> None:
    """Whether results can be written to a folder, if to any, before there are results; nothing is
    left there.

    Raises:
        SourceError: says why not.
    """
    if folder is None:
        return
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    made: list[Path] = []
    try:
        for path in reversed(missing):
            path.mkdir()
            made.append(path)
        taken = next((n for n in RESULTS if (folder / n).is_dir()), None)
        if taken is not None:
            raise SourceError(f"--out {folder} holds a folder {taken}. Name another one.")
        with TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        raise SourceError(
            f"--out {folder} cannot be written to: {error}. Name a folder that exists or can be "
            "made."
        ) from error
    finally:
        for path in reversed(made):
            path.rmdir()


def write_results(small: GraphModule, folder: Path | None) -> None:
    """The compressed model, its plan and its report, if a folder is named."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(fxprune.plan_of(small).to_json())
    (folder / "report.json").write_text(fxprune.report(small).to_json(indent=1))
    fxprune.save(small, folder / SAVED)


@app.command()
@print_errors_as_lines
def bench(
    small: options.Saved,
    original: options.Model,
    weights: options.Weights = None,
    shape: options.Shape = "",
    data: options.Data = "",
    size: options.Size = 224,
    gray: options.Gray = False,
    batch: options.Batches = None,
    mode: options.Modes = None,
    device: options.Device = None,
    threads: options.Threads = None,
    rounds: options.Rounds = 15,
    as_json: options.Json = False,
) -> None:
    """Measure a saved compressed model beside its original: latency and memory, taking turns."""
    net = sources.model(original, weights)
    result = fxprune.benchmark(
        fxprune.load(small / SAVED if small.is_dir() else small),
        net,
        read_example(net, shape, data, size, gray),
        batches=batch or (1, 32),
        modes=mode or MODES,
        device=device,
        threads=threads,
        rounds=rounds,
    )
    show(result, result.to_json(), as_json)


@app.command()
@print_errors_as_lines
def report(path: options.ReportPath, as_json: options.Json = False) -> None:
    """Print a saved report."""
    file = path / "report.json" if path.is_dir() else path
    if not file.is_file():
        raise SourceError(f"There is no report {file}.")
    try:
        result = fxprune.Report.from_json(file.read_text())
    except UnicodeDecodeError as error:
        raise PlanError(f"{file} is not a report: {error}.") from error
    show_report(result, as_json)


def main() -> None:
    """Entry point of the `fxprune` command."""
    app()


if __name__ == "__main__":
    main()
