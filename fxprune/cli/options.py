"""Options of the commands: what `--help` says about each. `parsing` says what their texts mean."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        help="package.module:factory, timm:NAME, torchvision:NAME, hf:PATH, model.onnx, "
        "or what fxprune wrote",
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
Size = Annotated[
    int | None,
    typer.Option(
        help="images of a folder: side of the center crop; what a timm:, torchvision: or hf: "
        "model's library says by default, else 224"
    ),
]
Gray = Annotated[
    bool,
    typer.Option("--gray", "--grey", help="images of a folder: one channel"),
]
Numbers = Annotated[
    str,
    typer.Option(
        help="per channel, comma-separated, of values in [0, 1]; what the model's library says by "
        "default, else ImageNet's"
    ),
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
Keep = Annotated[
    list[str] | None,
    typer.Option(help="NAME=SHARE: least share of channels of a module (a glob; repeated)"),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(help="submodule to compress in place, of a model that cannot be traced whole"),
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
Optimizer = Annotated[str, typer.Option(help="soap, adam or sgd")]
TrainBatch = Annotated[int, typer.Option(help="examples per step")]
Augment = Annotated[
    list[str] | None,
    typer.Option(help="auto, flip, crop, zoom, mix (may be repeated) or none; auto by default"),
]
Labels = Annotated[
    bool, typer.Option("--labels", help="mix in cross entropy against the loader's labels")
]
Checkpoint = Annotated[
    Path | None, typer.Option(help="folder in which a run that is killed goes on")
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
Offload = Annotated[
    bool,
    typer.Option(
        "--offload",
        help="a model larger than the device: it stays on the CPU, and its weights are brought to "
        "--device layer by layer",
    ),
]
DType = Annotated[
    str | None, typer.Option(help="float32, float64, bfloat16 or float16; the model's by default")
]
Html = Annotated[
    Path | None,
    typer.Option(help="also write the report as one file for a browser, such as r.html"),
]
RankMethod = Annotated[str, typer.Option(help="pca, svd, learned-rank or alds")]
Budgets = Annotated[
    list[float] | None,
    typer.Option("--flops", help="share of the FLOPs (repeated); 0.9, 0.7, 0.5, 0.35 by default"),
]
SweepOut = Annotated[
    Path | None, typer.Option(help="folder; each size goes into one of its own, such as small/0.5")
]
Drawn = Annotated[
    list[str],
    typer.Argument(
        help="folders that compress or sweep wrote, a report.json, or a model (its channel graph)",
        show_default=False,
    ),
]
Picture = Annotated[Path, typer.Option(help="the picture; its suffix decides the format")]
Exported = Annotated[
    str,
    typer.Argument(help="the folder or file that a command wrote, or a model", show_default=False),
]
Format = Annotated[str, typer.Option("--to", help="onnx, pt2 (torch.export) or aoti (AOTInductor)")]
ExportOut = Annotated[
    Path | None,
    typer.Option(help="the file; beside the model by default, such as small/model.onnx"),
]
Threads = Annotated[int | None, typer.Option(help="of the CPU; what torch uses by default")]
Rounds = Annotated[int, typer.Option(help="interleaved rounds per workload")]
ReportPath = Annotated[
    Path, typer.Argument(help="a report.json, or the folder that `compress --out` wrote")
]
