"""Options of the commands: what `--help` says about each, and what its text means."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from fxprune.calibrate.loader import Calibration
from fxprune.cli import sources
from fxprune.errors import SourceError
from fxprune.options import RoundTo
from fxprune.verify import judge

Model = Annotated[
    str,
    typer.Argument(
        help="package.module:factory, such as torchvision.models:resnet18, or model.onnx",
        show_default=False,
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
Gray = Annotated[
    bool,
    typer.Option("--gray/--no-gray", "--grey/--no-grey", help="images of a folder: one channel"),
]
Numbers = Annotated[
    str,
    typer.Option(help="per channel, comma-separated, of values in [0, 1]; ImageNet's by default"),
]
Examples = Annotated[int, typer.Option(help="examples per batch, of folders and arrays")]
Limit = Annotated[int | None, typer.Option(help="most examples, of folders and arrays")]
Groups = Annotated[
    str,
    typer.Option(
        help="which examples belong together, such as crops of one photograph: FILE.csv:COLUMN; of "
        "a folder of images also folder, or a regular expression matched in their paths; of an "
        ".npz, another array; of a loader, a key of its dict batches or package.module:function",
    ),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(help="module or parameter that keeps its shape (globs; may be repeated)"),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]

Share = Annotated[float, typer.Option(help="fraction of the FLOPs to keep")]
Flops = Annotated[float | None, typer.Option(help="fraction of the FLOPs to keep at most")]
Params = Annotated[float | None, typer.Option(help="fraction of the parameters to keep at most")]
Agreement = Annotated[
    float | None,
    typer.Option(help="certified share of equal decisions; 0.99 where no budget is named"),
]
Latency = Annotated[
    float | None, typer.Option(help="fraction of the original's time per call to keep, measured")
]
LatencyBatch = Annotated[int, typer.Option(help="examples per call that latency is measured with")]
Compiled = Annotated[bool, typer.Option("--compiled", help="measure latency under torch.compile")]
Method = Annotated[
    str, typer.Option(help="auto, channels, uniform, paper, paper-uniform or magnitude")
]
Selector = Annotated[str, typer.Option(help="output-aware, pivoted-qr or magnitude")]
Decision = Annotated[
    list[str] | None,
    typer.Option(
        help="when two outputs are the same: argmax, sign, multilabel, close, also "
        "'argmax(dim=2)' or 'close(tolerance=0.02)'; of several outputs NAME=RULE (repeated; "
        "NAME=none leaves one out)",
    ),
]
Multiple = Annotated[
    str,
    typer.Option(help="widths are multiples of this, or auto; 1 by default, auto with --latency"),
]
Effort = Annotated[int, typer.Option(help="how many plans are tried on calibration examples")]
Out = Annotated[
    Path | None,
    typer.Option(
        help="folder for model.safetensors (read by fxprune.load), plan.json and report.json"
    ),
]

To = Annotated[Path, typer.Option(help="folder for model.safetensors, plan.json and report.json")]
Minutes = Annotated[float | None, typer.Option(help="of training")]
Steps = Annotated[int | None, typer.Option(help="of the optimizer, instead of --minutes")]
Epochs = Annotated[float | None, typer.Option(help="passes over the examples, instead")]
Rate = Annotated[float | None, typer.Option(help="largest learning rate")]
Optimizer = Annotated[str, typer.Option(help="adam or sgd")]
TrainBatch = Annotated[int, typer.Option(help="examples per step")]
Augment = Annotated[
    list[str] | None,
    typer.Option(help="auto, flip, crop, mix (may be repeated) or none; auto by default"),
]
Labels = Annotated[
    bool, typer.Option("--labels", help="mix in cross entropy against the loader's labels")
]
Checkpoint = Annotated[
    Path | None, typer.Option(help="folder in which a training that is killed goes on")
]

Saved = Annotated[
    Path,
    typer.Argument(help="what fxprune.save wrote, or the folder that `compress --out` wrote"),
]
Batches = Annotated[
    list[int] | None,
    typer.Option(help="examples per call (may be repeated); 1 and 32 by default"),
]
Modes = Annotated[
    list[str] | None, typer.Option(help="eager or compiled (may be repeated); both by default")
]
Device = Annotated[str | None, typer.Option(help="such as cuda; the CPU by default")]
Threads = Annotated[int | None, typer.Option(help="of the CPU; what torch uses by default")]
Rounds = Annotated[int, typer.Option(help="interleaved rounds per workload")]
ReportPath = Annotated[
    Path, typer.Argument(help="a report.json, or the folder that `compress --out` wrote")
]


def parse_numbers(text: str) -> tuple[float, ...]:
    """Comma-separated numbers; none of an empty text.

    Raises:
        SourceError: a part is no number.
    """
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise SourceError(f"{text!r} is not a comma-separated list of numbers.") from error


def parse_augment(texts: Sequence[str] | None) -> list[str] | None:
    """What --augment says; `auto` where it is left out."""
    return None if texts and list(texts) == ["none"] else list(texts or ("auto",))


def parse_decision(texts: Sequence[str] | None) -> judge.Decision:
    """What --decision says: one rule, or rules by the names of outputs; None where it is left out.

    Raises:
        SourceError: one rule and rules by name are mixed.
    """
    named: dict[str | int, judge.Choice] = {}
    single = []
    for text in texts or ():
        name, equals, rule = text.partition("=")
        if equals and "(" not in name:
            named[name.strip()] = None if rule.strip() == "none" else rule
        else:
            single.append(text)
    if len(single) > 1 or (single and named):
        raise SourceError(
            "--decision names one rule for all outputs, or NAME=RULE for each of several."
        )
    return single[0] if single else named or None


def parse_multiple(text: str) -> RoundTo | None:
    """What --round-to says; None for the default.

    Raises:
        SourceError: it is neither a whole number nor auto.
    """
    if text in ("", "auto"):
        return "auto" if text else None
    try:
        return int(text)
    except ValueError as error:
        raise SourceError(f"--round-to {text!r} is neither a whole number nor auto.") from error


def read_example(net: nn.Module, shape: str, data: str, size: int, gray: bool) -> Any:
    """Two examples: zeros of a shape, or the first ones of the data.

    Raises:
        SourceError: neither is named, or the shape is no list of sizes.
    """
    if shape:
        try:
            return torch.zeros(2, *(int(s) for s in shape.split(",")))
        except (ValueError, RuntimeError, TypeError) as error:
            raise SourceError(
                f"--shape {shape!r} is not a comma-separated list of sizes, such as 3,224,224."
            ) from error
    if data:
        images = sources.ImageOptions(size, gray)
        return Calibration(net, sources.data(data, images, limit=2)).example
    raise SourceError("Name an example's --shape (such as 3,224,224) or --data.")


def read_loader(
    data: str, batch: int, limit: int | None, size: int, gray: bool, mean: str, std: str
) -> Any:
    """The calibration batches that the options of data and images name.

    Raises:
        SourceError: says what is missing.
    """
    images = sources.ImageOptions(size, gray, parse_numbers(mean), parse_numbers(std))
    return sources.data(data, images, batch, limit)
