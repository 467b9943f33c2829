"""The command line: `fxprune demo`, `analyze`, `compress`, `bench` and `report`."""

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

import fxprune
from fxprune.calibrate.loader import Calibration
from fxprune.cli import sources
from fxprune.demo import run as demo_run
from fxprune.errors import FxpruneError, PlanError, SourceError
from fxprune.options import DEFAULTS, RoundTo
from fxprune.timing.benchmark import MODES

app = typer.Typer(
    help="Make trained PyTorch models smaller and faster without fine-tuning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Model = Annotated[
    str,
    typer.Argument(
        help="package.module:factory, such as torchvision.models:resnet18", show_default=False
    ),
]
Weights = Annotated[
    Path | None, typer.Option(help="safetensors, or a state dict (read with weights_only=True)")
]
Data = Annotated[str, typer.Option(help="folder of images, .npz, or package.module:loader_factory")]
Shape = Annotated[
    str, typer.Option(help="one example's shape without the batch, such as 3,224,224")
]
Size = Annotated[int, typer.Option(help="images of a folder: side of the center crop")]
Grey = Annotated[bool, typer.Option(help="images of a folder: one channel")]
Numbers = Annotated[
    str,
    typer.Option(help="per channel, comma-separated, of values in [0, 1]; ImageNet's by default"),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(help="module or parameter that keeps its shape (globs; may be repeated)"),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]
SAVED = "model.safetensors"
"""The compressed model in the folder that `compress --out` writes."""


def _clean(command: Callable[..., None]) -> Callable[..., None]:
    """One line on stderr and exit code 1 for every error that fxprune raises on purpose."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except FxpruneError as error:
            print("fxprune: " + " ".join(str(error).split()), file=sys.stderr)
            raise typer.Exit(1) from error

    return run


def _show(table: Any, as_json: str, wanted: bool) -> None:
    """Tables keep a readable width where the output is no terminal."""
    if wanted:
        print(as_json)
        return
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)


def _floats(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise SourceError(f"{text!r} is not a comma-separated list of numbers.") from error


def _multiple(text: str) -> RoundTo | None:
    """What --round-to says; None for the default."""
    if text in ("", "auto"):
        return "auto" if text else None
    try:
        return int(text)
    except ValueError as error:
        raise SourceError(f"--round-to {text!r} is neither a whole number nor auto.") from error


def _example(net: nn.Module, shape: str, data: str, size: int, grey: bool) -> Any:
    """Two examples: zeros of a shape, or the first ones of the data."""
    if shape:
        try:
            return torch.zeros(2, *(int(s) for s in shape.split(",")))
        except (ValueError, RuntimeError) as error:
            raise SourceError(
                f"--shape {shape!r} is not a comma-separated list of sizes, such as 3,224,224."
            ) from error
    if data:
        return Calibration(
            net, sources.data(data, sources.ImageOptions(size, grey), limit=2)
        ).example
    raise SourceError("Name an example's --shape (such as 3,224,224) or --data.")


@app.command()
@_clean
def demo(
    flops: Annotated[float, typer.Option(help="fraction of the FLOPs to keep")] = 0.5,
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Compress a small trained network that comes with fxprune and show what it costs and gains."""
    result = demo_run.run(flops, seed)
    _show(result, json.dumps(result.to_dict()), as_json)


@app.command()
@_clean
def analyze(
    model: Model,
    shape: Shape = "",
    data: Data = "",
    size: Size = 224,
    grey: Grey = False,
    ignore: Ignore = None,
    as_json: Json = False,
) -> None:
    """List the channel groups of a model and what is left alone, with reasons; reads no weights."""
    net = sources.model(model)
    example = _example(net, shape, data, size, grey)
    found = fxprune.analyze(net, example, ignore=ignore or ())
    table = Table(title=f"{len(found.groups)} channel groups", title_justify="left")
    for column in ("group", "channels", "blocks", "made by", "read by"):
        table.add_column(
            column, overflow="fold", justify="right" if column in ("channels", "blocks") else "left"
        )
    groups: list[dict[str, Any]] = []
    for group in found.groups:
        members = [f"{p}[{a}]" for p, a in group.members]
        readers = list(dict.fromkeys(f"{c.parameter}[{c.axis}]" for c in group.consumers))
        table.add_row(
            group.name,
            str(group.channels),
            str(len(group.blocks)),
            " ".join(members),
            " ".join(readers),
        )
        groups.append(
            {
                "name": group.name,
                "channels": group.channels,
                "blocks": len(group.blocks),
                "members": members,
                "consumers": readers,
            }
        )
    for left in found.pinned:
        table.add_row(
            f"[dim]{left.parameter}[/dim]",
            str(left.size),
            "",
            f"[dim]left alone: {left.reason}[/dim]",
            "",
        )
    alone = [
        {"parameter": p.parameter, "axis": p.axis, "size": p.size, "reason": p.reason}
        for p in found.pinned
    ]
    _show(table, json.dumps({"groups": groups, "alone": alone}), as_json)


@app.command()
@_clean
def compress(
    model: Model,
    data: Data,
    weights: Weights = None,
    flops: Annotated[
        float | None, typer.Option(help="fraction of the FLOPs to keep at most")
    ] = None,
    params: Annotated[
        float | None, typer.Option(help="fraction of the parameters to keep at most")
    ] = None,
    agreement: Annotated[
        float | None,
        typer.Option(help="certified share of equal decisions; 0.99 where no budget is named"),
    ] = None,
    latency: Annotated[
        float | None,
        typer.Option(help="fraction of the original's time per call to keep, measured"),
    ] = None,
    latency_batch: Annotated[
        int, typer.Option(help="examples per call that latency is measured with")
    ] = 1,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="measure latency under torch.compile")
    ] = False,
    method: Annotated[
        str, typer.Option(help="auto, channels, uniform, paper, paper-uniform or magnitude")
    ] = "auto",
    selector: Annotated[
        str, typer.Option(help="output-aware, pivoted-qr or magnitude")
    ] = "output-aware",
    ignore: Ignore = None,
    round_to: Annotated[
        str,
        typer.Option(
            help="widths are multiples of this, or auto; 1 by default, auto with --latency"
        ),
    ] = "",
    effort: Annotated[
        int, typer.Option(help="how many plans are tried on calibration examples")
    ] = DEFAULTS.effort,
    seed: int = 0,
    batch: Annotated[int, typer.Option(help="examples per batch, of folders and arrays")] = 50,
    limit: Annotated[int | None, typer.Option(help="most examples, of folders and arrays")] = None,
    size: Size = 224,
    grey: Grey = False,
    mean: Numbers = "",
    std: Numbers = "",
    out: Annotated[
        Path | None,
        typer.Option(
            help="folder for model.safetensors (read by fxprune.load), plan.json and report.json"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compress a model and print the report."""
    net = sources.model(model, weights)
    options = sources.ImageOptions(size, grey, _floats(mean), _floats(std))
    loader = sources.data(data, options, batch, limit)
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
        ignore=ignore or (),
        round_to=_multiple(round_to),
        effort=effort,
        seed=seed,
    )
    result = fxprune.report(small)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "plan.json").write_text(fxprune.plan_of(small).to_json())
        (out / "report.json").write_text(result.to_json(indent=1))
        fxprune.save(small, out / SAVED)
    _show(result, result.to_json(), as_json)


@app.command()
@_clean
def bench(
    small: Annotated[
        Path,
        typer.Argument(help="what fxprune.save wrote, or the folder that `compress --out` wrote"),
    ],
    original: Model,
    weights: Weights = None,
    shape: Shape = "",
    data: Data = "",
    size: Size = 224,
    grey: Grey = False,
    batch: Annotated[
        list[int] | None,
        typer.Option(help="examples per call (may be repeated); 1 and 32 by default"),
    ] = None,
    mode: Annotated[
        list[str] | None, typer.Option(help="eager or compiled (may be repeated); both by default")
    ] = None,
    device: Annotated[str | None, typer.Option(help="such as cuda; the CPU by default")] = None,
    threads: Annotated[
        int | None, typer.Option(help="of the CPU; what torch uses by default")
    ] = None,
    rounds: Annotated[int, typer.Option(help="interleaved rounds per workload")] = 15,
    as_json: Json = False,
) -> None:
    """Measure a saved compressed model beside its original: latency and memory, taking turns."""
    net = sources.model(original, weights)
    result = fxprune.benchmark(
        fxprune.load(small / SAVED if small.is_dir() else small),
        net,
        _example(net, shape, data, size, grey),
        batches=batch or (1, 32),
        modes=mode or MODES,
        device=device,
        threads=threads,
        rounds=rounds,
    )
    _show(result, result.to_json(), as_json)


@app.command()
@_clean
def report(
    path: Annotated[
        Path, typer.Argument(help="a report.json, or the folder that `compress --out` wrote")
    ],
    as_json: Json = False,
) -> None:
    """Print a saved report."""
    file = path / "report.json" if path.is_dir() else path
    if not file.is_file():
        raise SourceError(f"There is no report {file}.")
    try:
        held = fxprune.Report.from_json(file.read_text())
    except UnicodeDecodeError as error:
        raise PlanError(f"{file} is not a report: {error}.") from error
    _show(held, held.to_json(), as_json)


def main() -> None:
    """Entry point of the `fxprune` command."""
    app()


if __name__ == "__main__":
    main()
