"""The rows of the trade-off as a table and as a picture."""

import math
from pathlib import Path

from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr


def average(rows: list[dict[str, object]], **fixed: object) -> dict[str, float]:
    """Means over the rows that match."""
    chosen = [r for r in rows if all(r[k] == v for k, v in fixed.items())]
    return {
        k: sum(_number(r[k]) for r in chosen) / len(chosen)
        for k in ("accuracy", "agreement", "error", "dense")
    }


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


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
        budgets = sorted({_number(r["flops"]) for r in rows if r["net"] == name})
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
