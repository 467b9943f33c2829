"""Agreement and accuracy against FLOPs: `python -m benchmarks.tradeoff`.

The trained networks of this repository on Fashion-MNIST: 1,000 unlabeled calibration images that
no network was trained on, drawn per seed; no fine-tuning; 10,000 test images that nothing is
fitted, selected or tuned on. With `--images DIR` the ImageNet-trained EfficientNet-Lite0 on the
photographs of DIR/calib and DIR/test, which need no labels: decisions are compared; with `--tones
NAME` a pitch tracker (`python -m benchmarks.train_pitch`) on synthesized tones. With `--recover
MINUTES` what `auto` gives is trained so long, on the same examples (docs/recover.md).
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Generator, Tensor, nn
from torch.fx import GraphModule

import fxprune
from benchmarks.datasets.images import DEBIAN, draw, photographs, photos, split
from benchmarks.datasets.tones import draw_tones
from benchmarks.examination.outputs import logits
from benchmarks.examination.tradeoff_page import picture, show
from benchmarks.models import pitch
from benchmarks.models.nets import NETS, efficientnet_lite0, trained
from fxprune.recovery.training import Length

RECOVERED = "auto + recover"
LITE = "EfficientNet-Lite0"
PHOTOGRAPHS = (0.9, 0.8, 0.7)
"""Budgets of the network on photographs."""
POOL, TONES, TEST = 5000, 2000, 1_000_000
"""Tones that calibration sets are drawn from, their seed, and that of the test's."""
BUDGETS = {False: (0.5,), True: (0.7, 0.5, 0.35)}
"""Of this repository's networks, by whether all is asked for."""
METHODS = ("auto", "channels", "uniform", "paper", "paper-uniform", "magnitude")


@dataclass(frozen=True)
class Task:
    """What networks are calibrated and tested on.

    Attributes:
        pool: images from which those for calibration are drawn.
        test: images; None takes those of the pool that were not drawn.
        labels: of the test images, where there are some.
        images: how many are drawn.
        groups: of the pool, which images belong together, if that is known.
    """

    pool: Tensor
    test: Tensor | None
    labels: Tensor | None
    images: int
    groups: Tensor | None = None


Case = tuple[str, nn.Module, Task]
"""A network's name, the network, and what it is measured on."""


def measure(
    name: str,
    net: nn.Module,
    task: Task,
    budgets: list[float],
    seeds: range,
    methods: list[str],
    recover: Length | None = None,
    device: str = "cpu",
) -> Iterator[dict[str, object]]:
    """Rows of one network, computed on a device; with `recover`, a further one for what `auto`
    gave, trained so long.
    """
    net = net.to(device)
    for seed in seeds:
        order = draw(torch.arange(len(task.pool)), len(task.pool), seed)
        calibration, rest = task.pool[order[: task.images]], task.pool[order[task.images :]]
        groups = None if task.groups is None else task.groups[order[: task.images]]
        common: Any = {"decision": "argmax", "groups": groups, "seed": seed, "progress": False}
        test = Test(net, rest if task.test is None else task.test, task.labels)
        for method in methods:
            start = time.perf_counter()
            for flops, small in fxprune.sweep(
                net, calibration, budgets=budgets, method=method, **common
            ).items():
                about = {"net": name, "flops": flops, "method": method, "seed": seed}
                yield about | test.row(small, time.perf_counter() - start)
                start = time.perf_counter()
                if recover is not None and method == "auto":
                    length = common | vars(recover)
                    better = fxprune.recover(small, net, calibration, **length)
                    about["method"] = RECOVERED
                    yield about | test.row(better, time.perf_counter() - start)
                    start = time.perf_counter()


class Test:
    """Examples that nothing is fitted, trained or tuned on.

    Args:
        net: the original.
        images: what is compared on.
        labels: of them, where there are some.
    """

    def __init__(self, net: nn.Module, images: Tensor, labels: Tensor | None):
        self._images, self._labels = images, labels
        self._reference = logits(net, images)
        self._decided = self._reference.argmax(1)
        center = self._reference.mean(1, keepdim=True)
        self._norm = float((self._reference - center).square().sum())

    def row(self, small: GraphModule, seconds: float) -> dict[str, object]:
        """What a compressed model costs and keeps."""
        found, report = logits(small, self._images), fxprune.report(small)
        held_out, recovery = report.agreement, report.recovery
        return {
            "kept": report.flops[1] / report.flops[0],
            "dense": self._accuracy(self._decided),
            "accuracy": self._accuracy(found.argmax(1)),
            "examples": len(self._images),
            "agreement": float((found.argmax(1) == self._decided).float().mean()),
            "error": float((found - self._reference).square().sum()) / self._norm,
            "predicted_error": report.predicted_error,
            "passes": report.passes,
            "held_out_error": None if held_out is None else held_out.error,
            "bound": None if held_out is None else held_out.bound,
            "seconds": seconds,
            "steps": None if recovery is None else recovery.steps,
        }

    def _accuracy(self, decisions: Tensor) -> float | None:
        if self._labels is None:
            return None
        return float((decisions == self._labels).float().mean())


def honesty(
    name: str, repetitions: int, images: int, data: Path, console: Console
) -> list[dict[str, object]]:
    """Certify agreement=0.99 on fresh calibration draws and count how often the test set falls
    below the bound.
    """
    net, pool, test = trained(name), split("calibration", data), split("test", data)
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


def write(rows: list[dict[str, object]], file: Path | None) -> None:
    """Keep what there is so far."""
    if file is not None:
        file.write_text(json.dumps(rows, indent=1))


Rows = Annotated[
    Path | None, typer.Option("--rows", help="measure nothing: show what --json wrote")
]
Plot = Annotated[
    Path | None, typer.Option("--plot", help="draw changed decisions; needs matplotlib")
]


def main(
    net: Annotated[list[str] | None, typer.Option(help="networks; all by default")] = None,
    flops: Annotated[list[float] | None, typer.Option(help="budgets; 0.5 by default")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="FLOPs 0.7, 0.5, 0.35 and three seeds")
    ] = False,
    seeds: int = 1,
    first: Annotated[int, typer.Option(help="seed")] = 0,
    count: Annotated[int, typer.Option(help="calibration images")] = 1000,
    method: Annotated[list[str] | None, typer.Option(help=f"of {', '.join(METHODS)}")] = None,
    certify: Annotated[int, typer.Option(help="instead: certify 0.99 this many times")] = 0,
    validation: Annotated[
        bool, typer.Option(help="measure on calibration images not drawn")
    ] = False,
    data: Path = DEBIAN,
    folder: Annotated[
        Path | None,
        typer.Option("--images", help="instead: EfficientNet-Lite0, DIR/calib, DIR/test"),
    ] = None,
    tones: Annotated[
        str | None, typer.Option(help=f"instead: one of {', '.join(pitch.DIVISORS)}, on tones")
    ] = None,
    device: Annotated[str, typer.Option(help="that compresses and trains")] = "cpu",
    recover: Annotated[float | None, typer.Option(help="minutes of training after auto")] = None,
    recover_steps: Annotated[int | None, typer.Option(help="steps instead")] = None,
    rows_file: Rows = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
    picture_file: Plot = None,
) -> None:
    """Write the trade-off table."""
    console, rows = Console(width=140), list[dict[str, object]]()
    methods, draws = method or list(METHODS), range(first, first + (3 if every else seeds))
    length = Length(minutes=recover, steps=recover_steps) if recover or recover_steps else None
    if rows_file is not None:
        rows = json.loads(rows_file.read_text())
    elif certify:
        for name in net or list(NETS):
            rows += honesty(name, certify, count, data, console)
            write(rows, json_file)
    else:
        for name, model, task in cases(net, folder, tones, data, validation, count):
            budgets = flops or list(BUDGETS[every] if folder is None else PHOTOGRAPHS)
            for row in measure(name, model, task, budgets, draws, methods, length, device):
                rows.append(row)
                write(rows, json_file)
    write(rows, json_file)
    if not certify:
        show(rows, console)
    if picture_file is not None:
        picture(rows, picture_file)


def cases(
    names: list[str] | None,
    folder: Path | None,
    tones: str | None,
    data: Path,
    validation: bool,
    count: int,
) -> Iterator[Case]:
    """What is asked for: networks, and what each is measured on; as `main` has its arguments."""
    if folder is not None:
        pool, test = (photos(folder / part) for part in ("calib", "test"))
        task = Task(pool, test, None, count, photographs(folder / "calib"))
        yield LITE, efficientnet_lite0(), task
    elif tones is not None:
        pool, _ = draw_tones(POOL, Generator().manual_seed(TONES))
        new = draw_tones(10_000, Generator().manual_seed(TEST))
        task = Task(pool, None, None, count) if validation else Task(pool, *new, count)
        yield tones, pitch.trained(tones), task
    else:
        images, held = split("calibration", data).images, split("test", data)
        task = Task(images, held.images, held.labels, count)
        for name in names or list(NETS):
            yield name, trained(name), Task(images, None, None, count) if validation else task


if __name__ == "__main__":
    typer.run(main)
