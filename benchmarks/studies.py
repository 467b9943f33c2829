"""The reference's studies, each with a table and a picture: `python -m benchmarks.studies NAME`.

On a trained network and the images that come with fxprune (1,000 to calibrate on, 5,000 to test
on), in a minute or two each; with `--data` on Fashion-MNIST's 5,000 and 10,000. docs/studies.md
says what each is about.
"""

import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from scipy.stats import spearmanr

import fxprune
from benchmarks.examination.group_scores import SCORES, group_scores
from benchmarks.examination.opened import opened
from benchmarks.examination.study import Found, Subject, draw_lines, percent, put_out
from fxprune.drawing.style import AFTER, BEFORE, COLORS, MARKERS, OTHER
from fxprune.drawing.tradeoff import Spot, draw_curves

CLASSES = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "boot"),
)
METHODS = {"auto": "auto", "iterative ID": "paper", "constant fraction": "paper-uniform"}
"""The paper's names of its two allocations, and ours."""
QUIET: dict[str, Any] = {"progress": False, "decision": "argmax"}
app = typer.Typer(add_completion=False, help=__doc__)
Net = Annotated[str, typer.Option(help="one of benchmarks.models.nets")]
Data = Annotated[Path | None, typer.Option(help="folder with Fashion-MNIST's four files")]
Out = Annotated[Path, typer.Option(help="folder for the picture and the table")]
HERE = Path("studies")


@app.command()
def methods(net: Net = "vgg", data: Data = None, out: Out = HERE) -> None:
    """Agreement and accuracy against FLOPs: iterative ID, constant fraction, and ours."""
    subject, rows, curves = Subject.of(net, data), list[list[str]](), dict[str, list[Spot]]()
    for name, method in METHODS.items():
        sizes = fxprune.sweep(
            subject.net, subject.pool, budgets=(0.8, 0.65, 0.5, 0.35), method=method, **QUIET
        )
        for small in sizes.values():
            before, after = fxprune.report(small).flops
            rate, bound, right = subject.judge(small)
            curves.setdefault(name, []).append(Spot(after / before, 1 - rate, 1 - bound))
            shares = (after / before, rate, bound, right)
            rows.append([name, *(percent(share) for share in shares)])

    def draw(panels: Any) -> None:
        draw_curves(panels[0], curves, percent=True)
        panels[0].set(
            title=f"{net}: decisions that changed",
            xlabel="FLOPs kept, %",
            ylabel="% of test images",
        )

    columns = ("method", "FLOPs %", "agreement %", "at least %", "accuracy %")
    put_out(Found("methods", f"{net}, no fine-tuning", columns, rows, draw), out)


@app.command()
def widths(net: Net = "vgg", flops: float = 0.5, data: Data = None, out: Out = HERE) -> None:
    """What k every layer keeps: its keep ratio under each allocation."""
    subject = Subject.of(net, data)
    plans = {
        name: fxprune.plan(subject.net, subject.pool, flops=flops, method=method, **QUIET)
        for name, method in (("channels", "channels"), *list(METHODS.items())[1:])
    }
    whole = {
        group.name: group.width for group in fxprune.analyze(subject.net, subject.pool[:2]).groups
    }
    rows = [
        [
            name,
            str(width),
            *(f"{p.widths[name]} ({p.widths[name] / width:.2f})" for p in plans.values()),
        ]
        for name, width in whole.items()
    ]

    def draw(panels: Any) -> None:
        shares = {
            name: ([100 * plan.widths[g] / w for g, w in whole.items()], list(range(len(whole))))
            for name, plan in plans.items()
        }
        draw_lines(panels[0], shares, marks="")
        panels[0].set_yticks(range(len(whole)), list(whole))
        panels[0].invert_yaxis()
        panels[0].set(
            title=f"{net} at {flops:.0%} of the FLOPs", xlabel="keep ratio, %", xlim=(0, 104)
        )

    columns = ("layer", "width", *plans)
    put_out(Found("widths", f"{net}: k and keep ratio", columns, rows, draw), out)


@app.command()
def size(
    net: Net = "vgg", flops: float = 0.5, seeds: int = 2, data: Data = None, out: Out = HERE
) -> None:
    """Agreement against the number of calibration images."""
    subject, rows = Subject.of(net, data), list[list[str]]()
    counts = [c for c in (100, 250, 500, 1000, 2500, 5000) if c <= len(subject.pool)]
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for name, method in list(METHODS.items())[:2]:
        for count in counts:
            found = [
                subject.judge(
                    fxprune.compress(
                        *(subject.net, subject.draw(count, seed)),
                        **(QUIET | {"flops": flops, "method": method, "seed": seed}),
                    )
                )[0]
                for seed in range(seeds)
            ]
            across, up = lines.setdefault(name, ([], []))
            across.append(count)
            up.append(100 - 100 * float(np.mean(found)))
            rows.append([name, str(count), percent(float(np.mean(found))), percent(min(found))])

    def draw(panels: Any) -> None:
        draw_lines(panels[0], lines)
        panels[0].set(xscale="log", yscale="log", xlabel="calibration images")
        panels[0].set_xticks(counts, [str(count) for count in counts])
        ticks = [tick for tick in (1, 2, 3, 5, 10, 20, 50) if _within(tick, lines)]
        panels[0].set_yticks(ticks, [str(tick) for tick in ticks])
        panels[0].minorticks_off()
        panels[0].set(title=f"{net} at {flops:.0%} of the FLOPs", ylabel="changed decisions, %")

    columns = ("method", "calibration images", "agreement %", "lowest of the draws")
    put_out(Found("size", f"{net} at flops={flops:g}", columns, rows, draw), out)


def _within(tick: float, lines: dict[str, tuple[list[float], list[float]]]) -> bool:
    values = [value for _, up in lines.values() for value in up]
    return 0.7 * min(values) <= tick <= 1.4 * max(values)


@app.command("left-out")
def left_out(
    net: Net = "vgg",
    flops: float = 0.5,
    method: str = "paper",
    data: Data = None,
    out: Out = HERE,
) -> None:
    """Agreement per class where one class is missing from the calibration images."""
    subject = Subject.of(net, data)
    options = QUIET | {"flops": flops, "method": method}

    def per_class(images: Any) -> list[float]:
        same = subject.same(fxprune.compress(subject.net, images, **options)).float()
        return [float(same[subject.decided == c].mean()) for c in range(len(CLASSES))]

    everything = per_class(subject.pool)
    without = [per_class(subject.pool[subject.classes != c]) for c in range(len(CLASSES))]
    kept, lost = everything, [found[c] for c, found in enumerate(without)]
    rows = [
        [name, *(percent(share) for share in (kept[c], lost[c], float(np.mean(without[c]))))]
        for c, name in enumerate(CLASSES)
    ]

    def draw(panels: Any) -> None:
        for c in range(len(CLASSES)):
            panels[0].plot(
                [100 * lost[c], 100 * kept[c]], [c, c], color=BEFORE, linewidth=4, zorder=1
            )
        for values, color, label in ((kept, AFTER, "calibrated on"), (lost, OTHER, "left out")):
            marker = MARKERS[COLORS.index(color)]
            across = [100 * value for value in values]
            panels[0].plot(across, range(len(CLASSES)), marker, color=color, label=label)
        panels[0].set_yticks(range(len(CLASSES)), list(CLASSES))
        panels[0].invert_yaxis()
        panels[0].set(
            title="Agreement within a class", xlabel="same decision, % of its test images"
        )

    columns = ("class", "agreement %", "where it is left out", "mean of all classes then")
    put_out(Found("left-out", f"{net} at flops={flops:g}, {method}", columns, rows, draw), out)


@app.command()
def scores(net: Net = "vgg", keep: float = 0.5, data: Data = None, out: Out = HERE) -> None:
    """|r_kk / r_11|, singular values and the predicted error of every group against the output
    error when that group alone is reduced.
    """
    subject = Subject.of(net, data)
    found = group_scores(opened(subject.net, subject.draw(1000, 0), 0), keep)
    measured = [values[-1] for _, values in found]
    ranks = [spearmanr([v[i] for _, v in found], measured)[0] for i in range(len(SCORES))]
    rows = [[name, *(f"{v:.1e}" for v in values)] for name, values in found]
    rows.append(["rank correlation with it", *(f"{rank:.2f}" for rank in ranks), ""])

    def draw(panels: Any) -> None:
        for i, (axes, score) in enumerate(zip(panels, SCORES, strict=True)):
            axes.loglog([v[i] for _, v in found], measured, MARKERS[i], color=COLORS[i])
            axes.set(title=f"rank correlation {ranks[i]:.2f}", xlabel=score)
            lowest, highest = min(v[i] for _, v in found), max(v[i] for _, v in found)
            ticks = [lowest, math.sqrt(lowest * highest), highest]
            axes.minorticks_off()
            axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
        panels[0].set_ylabel("measured error of the output")

    columns = ("group", *SCORES, "measured error")
    title = f"{net}: each group alone cut to {keep:.0%}, interpolated"
    put_out(Found("scores", title, columns, rows, draw, panels=len(SCORES)), out)


@app.command()
def composition(net: Net = "vgg", flops: float = 0.6, data: Data = None, out: Out = HERE) -> None:
    """Channels first, then lower ranks: PCA, learned rank and ALDS at several keep ratios."""
    subject, rows = Subject.of(net, data), list[list[str]]()
    channels = fxprune.compress(subject.net, subject.pool, flops=flops, method="channels", **QUIET)
    whole = fxprune.report(channels).params[0]
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for method in ("pca", "learned-rank", "alds"):
        for keep in (0.8, 0.6, 0.4):
            both = fxprune.factorize(channels, subject.pool, params=keep, method=method, **QUIET)
            rate, bound, right = subject.judge(both)
            share = fxprune.report(both).params[1] / whole
            across, up = lines.setdefault(f"channels, then {method}", ([], []))
            across.append(100 * share)
            up.append(100 * (1 - rate))
            shares = (share, rate, bound, right)
            rows.append([method, f"{keep:g}", *(percent(value) for value in shares)])

    def draw(panels: Any) -> None:
        draw_lines(panels[0], lines)
        panels[0].set(
            title=f"{net}: {flops:.0%} of the FLOPs by channels, then low rank",
            xlabel="parameters kept, % of the original's",
            ylabel="changed decisions, %",
            ylim=(0, None),
        )

    columns = ("then", "keep ratio", "parameters %", "agreement %", "at least %", "accuracy %")
    put_out(Found("composition", f"{net}: composition", columns, rows, draw), out)


@app.command("fine-tuning")
def fine_tuning(net: Net = "vgg", flops: float = 0.35, data: Data = None, out: Out = HERE) -> None:
    """What training to the original's outputs adds, without labels: agreement against steps."""
    subject, rows = Subject.of(net, data), list[list[str]]()
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for name, method in list(METHODS.items())[:2]:
        small = fxprune.compress(subject.net, subject.pool, flops=flops, method=method, **QUIET)
        for steps in (0, 50, 150):
            better = (
                fxprune.recover(small, subject.net, subject.pool, steps=steps, **QUIET)
                if steps
                else small
            )
            rate, bound, right = subject.judge(better)
            across, up = lines.setdefault(name, ([], []))
            across.append(steps)
            up.append(100 * (1 - rate))
            rows.append([name, str(steps), *(percent(value) for value in (rate, bound, right))])

    def draw(panels: Any) -> None:
        draw_lines(panels[0], lines)
        panels[0].set(
            title=f"{net} at {flops:.0%} of the FLOPs, trained without labels",
            xlabel="steps of the optimizer",
            ylabel="changed decisions, %",
            ylim=(0, None),
        )

    columns = ("method", "steps", "agreement %", "at least %", "accuracy %")
    put_out(Found("fine-tuning", f"{net} at flops={flops:g}", columns, rows, draw), out)


if __name__ == "__main__":
    app()
