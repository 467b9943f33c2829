"""A trained network that came from an ONNX file, compressed: `python -m benchmarks.onnx_net`.

The demo's VGG is exported to ONNX (opset 17), read back by onnx2torch, compressed by `auto` and by
the reference method at uniform widths (`paper-uniform`) on its 1,000 unlabeled images, and exported
again. Decisions are compared on images that nothing was trained, fitted or selected on; times are
ONNX Runtime's, of both files in turns, on one thread. Kernels may take blocks of channels, so that
each method is also asked for widths in steps of 8. Needs `pip install "fxprune[onnx]"`.
docs/onnx.md is written from the rows.
"""

import datetime
import tempfile
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from torch import Tensor, nn

import fxprune
from benchmarks.examination.outputs import logits
from benchmarks.models import torchvision_ops  # noqa: F401  (onnx2torch imports torchvision)
from fxprune.cli.onnx_file import read_onnx
from fxprune.demo import data
from fxprune.demo.run import vgg
from fxprune.timing.clock import machine_name

METHODS = ("auto", "paper-uniform")
STEPS = (1, 8)
PAGE = Path(__file__).resolve().parent.parent / "docs" / "onnx.md"
INPUT = "images"


@dataclass(frozen=True)
class Row:
    """One compressed model.

    Attributes:
        method, flops, steps: how it was made; what widths are multiples of.
        kept: share of the FLOPs.
        agreement: share of the test images with the decision of the original file in ONNX Runtime.
        accuracy: share of them with the true class.
        size: of the file over the original's.
        speedups: of the original file's time over its own, by batch size.
    """

    method: str
    flops: float
    steps: int
    kept: float
    agreement: float
    accuracy: float
    size: float
    speedups: dict[int, float]


def write(net: nn.Module, path: Path, example: Tensor) -> Path:
    """Export a network to ONNX with a free batch size."""
    axes = {INPUT: {0: "batch"}, "scores": {0: "batch"}}
    torch.onnx.export(
        net,
        (example,),
        str(path),
        input_names=[INPUT],
        output_names=["scores"],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )
    return path


def session(path: Path) -> Any:
    """The file in ONNX Runtime, on one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def decide(running: Any, images: Tensor) -> Tensor:
    """The classes (N,) that a session gives."""
    parts = [running.run(None, {INPUT: part.numpy()})[0] for part in images.split(500)]
    return torch.from_numpy(np.concatenate(parts)).argmax(1)


def speedup(first: Any, second: Any, images: Tensor, rounds: int) -> float:
    """Median over rounds in turns of the first session's time over the second's."""
    given, ratios = {INPUT: images.numpy()}, []
    for _ in range(rounds + 3):
        seconds = []
        for running in (first, second):
            start = time.perf_counter()
            running.run(None, given)
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    return float(np.median(ratios[3:]))


def page(rows: list[Row], accuracy: float, count: int, tested: int) -> str:
    """The table as a page."""
    import onnxruntime

    batches = list(rows[0].speedups)
    heads = ["FLOPs", "method", "widths in steps of", "kept", "agreement", "accuracy", "file size"]
    heads += [f"speedup, batch {batch}" for batch in batches]
    lines = [
        "# A network from ONNX",
        "",
        "Written by `python -m benchmarks.onnx_net`: the demo's trained VGG "
        f"(Fashion-MNIST, {accuracy:.2%} right) as an ONNX file, read by",
        f"onnx2torch, compressed on {count:,} unlabeled images without training, and exported "
        "again. `paper-uniform` is the reference method. Agreement is with the",
        f"original file's decisions on {tested:,} images that nothing was trained, fitted or "
        "selected on, both files run by ONNX Runtime. Speedups are medians of the",
        "original file's time over the small one's, in turns, one thread. "
        f"{machine_name(torch.device('cpu'))}, CPU, torch {torch.__version__}, onnxruntime "
        f"{onnxruntime.__version__}, {datetime.date.today().isoformat()}.",
        "",
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
    ]
    for row in rows:
        cells = [
            f"{row.flops:g}",
            f"`{row.method}`",
            str(row.steps),
            f"{row.kept:.3f}",
            f"{row.agreement:.2%}",
            f"{row.accuracy:.2%}",
            f"{row.size:.2f}",
            *(f"{row.speedups[batch]:.2f}" for batch in batches),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(
    flops: Annotated[list[float] | None, typer.Option(help="budgets; 0.7, 0.5 by default")] = None,
    count: Annotated[int, typer.Option(help="calibration images")] = 1000,
    tested: Annotated[int, typer.Option(help="test images, at most")] = 10_000,
    rounds: Annotated[int, typer.Option(help="of timing")] = 40,
    out: Path = PAGE,
) -> None:
    """Measure and write the table."""
    torch.set_num_threads(1)
    console, held = Console(width=140), data.load()
    images, labels = held.images[:tested], held.labels[:tested]
    calibration = held.calibration[:count]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        original = write(vgg().eval(), Path(folder) / "original.onnx", images[:2])
        net, running = read_onnx(original), session(original)
        decided = decide(running, images)
        if not torch.equal(decided, logits(net, images).argmax(1)):
            console.print("onnx2torch's module decides otherwise than the file")
        for budget in flops or (0.7, 0.5):
            for method, steps in product(METHODS, STEPS):
                small = fxprune.compress(
                    net,
                    calibration,
                    flops=budget,
                    method=method,
                    round_to=steps,
                    decision="argmax",
                    progress=False,
                )
                path = write(small, Path(folder) / "small.onnx", images[:2])
                other = session(path)
                found = decide(other, images)
                before, after = fxprune.report(small).flops
                row = Row(
                    method,
                    budget,
                    steps,
                    after / before,
                    float((found == decided).float().mean()),
                    float((found == labels).float().mean()),
                    path.stat().st_size / original.stat().st_size,
                    {n: speedup(running, other, images[:n], rounds) for n in (1, 32)},
                )
                rows.append(row)
                console.print(str(row), highlight=False)
    accuracy = float((decided == labels).float().mean())
    out.write_text(page(rows, accuracy, len(calibration), len(images)))


if __name__ == "__main__":
    typer.run(main)
