"""Agreement and accuracy against FLOPs: `python -m benchmarks.tradeoff`.

The trained networks of this repository on Fashion-MNIST: 1,000 unlabeled calibration images that
no network was trained on, drawn per seed; no fine-tuning; 10,000 test images that nothing is
fitted, selected or tuned on. With `--images DIR` the ImageNet-trained EfficientNet-Lite0 on the
photographs of DIR/calib and DIR/test, which need no labels: decisions are compared.
"""

import json
import math
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from torch import Tensor, nn

import fxprune
from benchmarks.data import DEBIAN, Split, photos, split
from benchmarks.nets import NETS, efficientnet_lite0, trained
from fxprune.plans.budget import Budget
from fxprune.session import Session, held_out_for, open_session

METHODS = ("auto", "channels", "uniform", "paper", "paper-uniform", "magnitude")


@torch.no_grad()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Outputs on all images, (N, classes)."""
    return torch.cat([model(x) for x in images.split(100)])


def draw(pool: Tensor, count: int, seed: int) -> Tensor:
    """Calibration images."""
    return pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:count]]


def opened(net: nn.Module, calibration: Tensor, seed: int) -> Session:
    """Capture and label once, as `compress(flops=)` does, for benchmarks that look into the
    stations.
    """
    return open_session(
        net,
        calibration,
        example=None,
        ignore=(),
        keep=None,
        round_to=1,
        seed=seed,
        memory=2e9,
        progress=False,
        decision=None,
        held_out=held_out_for(Budget(flops=1.0)),
    )


def measure(
    name: str,
    net: nn.Module,
    budgets: list[float],
    seeds: int,
    images: int,
    methods: list[str],
    pool: Tensor,
    test: Tensor | None,
    labels: Tensor | None,
) -> list[dict[str, object]]:
    """Rows of one network; without test images, on those of the pool that were not drawn."""
    rows: list[dict[str, object]] = []
    for seed in range(seeds):
        order = draw(pool, len(pool), seed)
        rows += _rows(
            name,
            net,
            budgets,
            seed,
            methods,
            order[:images],
            order[images:] if test is None else test,
            labels,
        )
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


def average(rows: list[dict[str, object]], **fixed: object) -> dict[str, float]:
    """Means over the rows that match."""
    chosen = [r for r in rows if all(r[k] == v for k, v in fixed.items())]
    return {
        k: sum(float("nan" if r[k] is None else r[k]) for r in chosen) / len(chosen)  # type: ignore[arg-type]
        for k in ("accuracy", "agreement", "error", "dense")
    }


def _cell(mean: dict[str, float]) -> str:
    accuracy = "" if math.isnan(mean["accuracy"]) else f" ({100 * mean['accuracy']:.2f})"
    return f"{100 * mean['agreement']:.2f}{accuracy}"


def show(rows: list[dict[str, object]], console: Console) -> None:
    """Print the table, and how the disagreement of `auto` compares with the paper's."""
    methods = list(dict.fromkeys(str(r["method"]) for r in rows))
    table = Table(
        title="Agreement % (accuracy %) on the test images, mean over calibration draws",
        title_justify="left",
    )
    for column in ("net", "dense", "FLOPs", *methods):
        table.add_column(column, justify="left" if column == "net" else "right")
    ratios: list[tuple[float, float]] = []
    for name, flops in dict.fromkeys((r["net"], r["flops"]) for r in rows):
        means = {m: average(rows, net=name, flops=flops, method=m) for m in methods}
        cells = [_cell(means[m]) for m in methods]
        dense = means[methods[0]]["dense"]
        table.add_row(
            str(name), "" if math.isnan(dense) else f"{100 * dense:.2f}", str(flops), *cells
        )
        if {"auto", "paper", "paper-uniform"} <= set(methods):
            wrong = {m: 1 - means[m]["agreement"] for m in methods}
            ratios.append(
                (
                    wrong["auto"] / wrong["paper"],
                    wrong["auto"] / min(wrong["paper"], wrong["paper-uniform"]),
                )
            )
    console.print(table)
    if ratios:
        paper, better = (sum(r[i] for r in ratios) / len(ratios) for i in (0, 1))
        console.print(
            f"Disagreement of auto: {paper:.2f} of paper's on average, {better:.2f} of the better "
            "of paper and paper-uniform; "
            f"at most {max(r[1] for r in ratios):.2f}."
        )
    for name in dict.fromkeys(r["net"] for r in rows):
        plans = [
            r for r in rows if r["net"] == name and r["method"] in ("auto", "channels", "uniform")
        ]
        if len({r["flops"] for r in plans}) > 1:
            rank = spearmanr([r["predicted_error"] for r in plans], [r["error"] for r in plans])[0]
            console.print(
                f"{name}: Spearman rank correlation of predicted and measured output error over "
                f"{len(plans)} plans: {rank:.2f}"
            )


def picture(rows: list[dict[str, object]], file: Path) -> None:
    """Draw agreement against FLOPs, a panel per network and a line per method."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(str(r["net"]) for r in rows))
    figure = Figure(figsize=(3 * len(names), 3), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for name, axes in zip(names, panels, strict=True):
        budgets = sorted({float(r["flops"]) for r in rows if r["net"] == name})  # type: ignore[arg-type]
        for method in dict.fromkeys(str(r["method"]) for r in rows):
            line = [
                100 * average(rows, net=name, flops=flops, method=method)["agreement"]
                for flops in budgets
            ]
            axes.plot([100 * flops for flops in budgets], line, "o-", markersize=3, label=method)
        axes.set(title=name, xlabel="FLOPs kept, %", ylim=(60, 100.5))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("same decision, %")
    figure.legend(handles=panels[0].lines, loc="outside right center")
    figure.savefig(file, dpi=120)


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
        bool,
        typer.Option("--validation", help="measure on the calibration images outside the draw"),
    ] = False,
    data: Path = DEBIAN,
    photographs: Annotated[
        Path | None,
        typer.Option("--images", help="instead: EfficientNet-Lite0 on DIR/calib and DIR/test"),
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
        calibration, test = photos(photographs / "calib"), photos(photographs / "test")
        name, model = "EfficientNet-Lite0", efficientnet_lite0()
        rows += measure(
            name, model, flops or [0.9, 0.8, 0.7], repeats, count, methods, calibration, test, None
        )
    else:
        pool, held = split("calibration", data), split("test", data)
        for name in net or list(NETS):
            if certify:
                rows += honesty(name, certify, count, pool, held, console)
            else:
                budgets = flops or ([0.7, 0.5, 0.35] if every else [0.5])
                test_images, labels = (None, None) if validation else (held.images, held.labels)
                rows += measure(
                    name,
                    trained(name),
                    budgets,
                    repeats,
                    count,
                    methods,
                    pool.images,
                    test_images,
                    labels,
                )
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
