"""The rows of the trade-off as a table and as a picture."""

import math
from pathlib import Path

from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from fxprune.drawing.style import styled
from fxprune.drawing.tradeoff import Spot, draw_curves
from fxprune.linalg.clopper_pearson import lower_bound

ACROSS, PANEL, LEGEND = 3, (3.6, 3.0), 0.4
"""Panels beside each other, and inches that one and the legend take."""


def average(rows: list[dict[str, object]], **fixed: object) -> dict[str, float]:
    """Means over the rows that match."""
    chosen = [r for r in rows if all(r[k] == v for k, v in fixed.items())]
    return {
        k: sum(_number(r.get(k)) for r in chosen) / len(chosen)
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
        measured = all("error" in r and "predicted_error" in r for r in plans)
        if len({r["flops"] for r in plans}) > 1 and measured:
            rank = spearmanr([r["predicted_error"] for r in plans], [r["error"] for r in plans])[0]
            console.print(
                f"{name}: Spearman rank correlation of predicted and measured output error over "
                f"{len(plans)} plans: {rank:.2f}"
            )


def picture(rows: list[dict[str, object]], file: Path) -> None:
    """Draw the decisions that changed on the test images, with the 95 % bound that follows from how
    many there are, against FLOPs: a panel per network and a line per method.
    """
    from fxprune.drawing.picture import new_picture

    names = list(dict.fromkeys(str(r["net"]) for r in rows))
    methods = list(dict.fromkeys(str(r["method"]) for r in rows))
    across = min(len(names), ACROSS)
    down = math.ceil(len(names) / across)
    with styled():
        figure = new_picture(PANEL[0] * across, PANEL[1] * down + LEGEND)
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for name, axes in zip(names, panels, strict=False):
            own = [r for r in rows if r["net"] == name]
            draw_curves(axes, {m: _curve(own, m) for m in methods}, percent=True)
            axes.set(title=name, xlabel="FLOPs kept, %", ylabel="changed decisions, %")
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        handles = figure.axes[0].get_legend_handles_labels()[0]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(methods) + 1)
        figure.savefig(file)


def _curve(rows: list[dict[str, object]], method: str) -> list[Spot]:
    """Means over the draws of one network and method."""
    spots = []
    for flops in dict.fromkeys(_number(r["flops"]) for r in rows if r["method"] == method):
        rate = average(rows, flops=flops, method=method)["agreement"]
        count = round(max(_number(r["examples"]) for r in rows))
        high = 1 - lower_bound(round(rate * count), count)
        spots.append(Spot(flops, 1 - rate, high))
    return spots
