"""Agreement and accuracy against FLOPs: `python -m benchmarks.tradeoff`.

The trained networks of this repository on Fashion-MNIST: 1,000 unlabeled calibration images that
no network was trained on, drawn per seed; no fine-tuning; 10,000 test images that nothing is
fitted, selected or tuned on. With `--images DIR` the ImageNet-trained EfficientNet-Lite0 on the
photographs of DIR/calib and DIR/test, which need no labels: decisions are compared.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from torch import Tensor, nn

import fxprune
from benchmarks.datasets.images import DEBIAN, Split, draw, photos, split
from benchmarks.examination.outputs import logits
from benchmarks.examination.tradeoff_page import picture, show
from benchmarks.models.nets import NETS, efficientnet_lite0, trained

METHODS = ("auto", "channels", "uniform", "paper", "paper-uniform", "magnitude")


@dataclass(frozen=True)
class Task:
    """What networks are calibrated and tested on.

    Attributes:
        pool: images from which those for calibration are drawn.
        test: images; None takes those of the pool that were not drawn.
        labels: of the test images, where there are some.
        images: how many are drawn.
    """

    pool: Tensor
    test: Tensor | None
    labels: Tensor | None
    images: int


def measure(
    name: str, net: nn.Module, task: Task, budgets: list[float], seeds: int, methods: list[str]
) -> list[dict[str, object]]:
    """Rows of one network."""
    rows: list[dict[str, object]] = []
    for seed in range(seeds):
        order = draw(task.pool, len(task.pool), seed)
        calibration, rest = order[: task.images], order[task.images :]
        test = rest if task.test is None else task.test
        rows += _rows(name, net, budgets, seed, methods, calibration, test, task.labels)
    return rows


def _rows(
    name: str,
    net: nn.Module,
    budgets: list[float],
    seed: int,
    methods: list[str],
    calibration: Tensor,
    test: Tensor,
    labels: Tensor | None,
) -> list[dict[str, object]]:
    """Rows of one network and one draw."""
    reference = logits(net, test)
    decided = reference.argmax(1)
    norm = float((reference - reference.mean(1, keepdim=True)).square().sum())

    def accuracy(decisions: Tensor) -> float | None:
        return None if labels is None else float((decisions == labels).float().mean())

    rows: list[dict[str, object]] = []
    for method in methods:
        start = time.perf_counter()
        for flops, small in fxprune.sweep(
            net, calibration, budgets=budgets, method=method, seed=seed, progress=False
        ).items():
            found = logits(small, test)
            report = fxprune.report(small)
            rows.append(
                {
                    "net": name,
                    "flops": flops,
                    "method": method,
                    "seed": seed,
                    "kept": report.flops[1] / report.flops[0],
                    "dense": accuracy(decided),
                    "accuracy": accuracy(found.argmax(1)),
                    "agreement": float((found.argmax(1) == decided).float().mean()),
                    "error": float((found - reference).square().sum()) / norm,
                    "predicted_error": report.predicted_error,
                    "held_out_error": None if report.agreement is None else report.agreement.error,
                    "bound": None if report.agreement is None else report.agreement.bound,
                    "seconds": time.perf_counter() - start,
                }
            )
            start = time.perf_counter()
    return rows


def honesty(
    name: str, repetitions: int, images: int, pool: Split, test: Split, console: Console
) -> list[dict[str, object]]:
    """Certify agreement=0.99 on fresh calibration draws and count how often the test set falls
    below the bound.
    """
    net = trained(name)
    decided = logits(net, test.images).argmax(1)
    rows: list[dict[str, object]] = []
    for seed in range(repetitions):
        small = fxprune.compress(
            net, draw(pool.images, images, 1000 + seed), agreement=0.99, seed=seed, progress=False
        )
        held_out = fxprune.report(small).agreement
        assert held_out is not None
        true = float((logits(small, test.images).argmax(1) == decided).float().mean())
        before, after = fxprune.report(small).flops
        rows.append(
            {
                "net": name,
                "seed": seed,
                "bound": held_out.bound,
                "test": true,
                "kept": after / before,
            }
        )
        console.print(
            f"{name} {seed}: certified {held_out.bound:.4f}, test {true:.4f}, FLOPs kept "
            f"{after / before:.2f}",
            highlight=False,
        )
    broken = sum(r["test"] < r["bound"] for r in rows)  # type: ignore[operator]
    console.print(
        f"{name}: the test agreement lies below the certified bound in {broken} of {repetitions} "
        "draws."
    )
    return rows


def main(
    net: Annotated[list[str] | None, typer.Option(help="networks; all by default")] = None,
    flops: Annotated[list[float] | None, typer.Option(help="budgets; 0.5 by default")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="FLOPs 0.7, 0.5, 0.35 and three seeds")
    ] = False,
    seeds: int = 1,
    count: Annotated[int, typer.Option(help="calibration images")] = 1000,
    method: Annotated[list[str] | None, typer.Option(help=f"of {', '.join(METHODS)}")] = None,
    certify: Annotated[
        int, typer.Option(help="instead: certify agreement=0.99 this many times")
    ] = 0,
    validation: Annotated[
        bool, typer.Option("--validation", help="measure on calibration images not drawn")
    ] = False,
    data: Path = DEBIAN,
    photographs: Annotated[
        Path | None,
        typer.Option("--images", help="instead: EfficientNet-Lite0, DIR/calib, DIR/test"),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
    picture_file: Annotated[
        Path | None, typer.Option("--plot", help="draw agreement against FLOPs; needs matplotlib")
    ] = None,
) -> None:
    """Write the trade-off table."""
    console = Console(width=140)
    rows: list[dict[str, object]] = []
    methods, repeats = method or list(METHODS), 3 if every else seeds
    if photographs is not None:
        task = Task(photos(photographs / "calib"), photos(photographs / "test"), None, count)
        name, model = "EfficientNet-Lite0", efficientnet_lite0()
        rows += measure(name, model, task, flops or [0.9, 0.8, 0.7], repeats, methods)
    else:
        pool, held = split("calibration", data), split("test", data)
        test, labels = (None, None) if validation else (held.images, held.labels)
        task = Task(pool.images, test, labels, count)
        budgets = flops or ([0.7, 0.5, 0.35] if every else [0.5])
        for name in net or list(NETS):
            if certify:
                rows += honesty(name, certify, count, pool, held, console)
            else:
                rows += measure(name, trained(name), task, budgets, repeats, methods)
            if json_file is not None:
                json_file.write_text(json.dumps(rows, indent=1))
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=1))
    if not certify:
        show(rows, console)
        if picture_file is not None:
            picture(rows, picture_file)


if __name__ == "__main__":
    typer.run(main)
