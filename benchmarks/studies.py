"""The reference's other studies: `python -m benchmarks.studies size|left-out|scores`, on the
trained networks, 10,000 test images.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

import fxprune
from benchmarks.datasets.images import DEBIAN, draw, split
from benchmarks.examination.opened import opened
from benchmarks.examination.outputs import logits
from benchmarks.models.nets import trained
from fxprune.fit.build import build
from fxprune.label.keep import keep_last
from fxprune.linalg.selection import pivoted_qr
from fxprune.plans.methods import METHODS
from fxprune.session import Session

CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "boot",
)
SCORES = ("|r_kk/r_11|", "|R22|/|R|", "dropped singular values", "predicted error")
app = typer.Typer(add_completion=False, help=__doc__)
Net = Annotated[str, typer.Option(help="one of benchmarks.models.nets")]


@app.command()
def size(net: Net = "vgg", flops: float = 0.5, seeds: int = 3, data: Path = DEBIAN) -> None:
    """Agreement against the number of calibration images."""
    model, pool, test = trained(net), split("calibration", data), split("test", data)
    decided = logits(model, test.images).argmax(1)
    table = Table(title=f"{net} at flops={flops:g}", title_justify="left")
    for column in ("calibration images", "agreement %", "lowest of the draws"):
        table.add_column(column, justify="right")
    for count in (100, 250, 500, 1000, 2500, 5000):
        found = []
        for seed in range(seeds):
            small = fxprune.compress(
                model, draw(pool.images, count, seed), flops=flops, seed=seed, progress=False
            )
            found.append(
                100 * float((logits(small, test.images).argmax(1) == decided).float().mean())
            )
        table.add_row(str(count), f"{np.mean(found):.2f}", f"{min(found):.2f}")
    Console().print(table)


@app.command("left-out")
def left_out(net: Net = "vgg", flops: float = 0.5, count: int = 1000, data: Path = DEBIAN) -> None:
    """Agreement per class where one class is missing from the calibration images."""
    model, pool, test = trained(net), split("calibration", data), split("test", data)
    decided = logits(model, test.images).argmax(1)
    table = Table(title=f"Agreement % per class of {net} at flops={flops:g}", title_justify="left")
    for column in ("left out", "all classes", "that class", "that class when calibrated on"):
        table.add_column(column, justify="left" if column == "left out" else "right")

    def per_class(images: np.ndarray) -> np.ndarray:
        chosen = draw(pool.images[images], count, 0)
        same = (
            logits(
                fxprune.compress(model, chosen, flops=flops, progress=False), test.images
            ).argmax(1)
            == decided
        )
        return np.array([100 * float(same[test.labels == c].float().mean()) for c in range(10)])

    labels = pool.labels.numpy()
    everything = per_class(np.arange(len(labels)))
    for c, name in enumerate(CLASSES):
        found = per_class(np.flatnonzero(labels != c))
        table.add_row(name, f"{found.mean():.2f}", f"{found[c]:.2f}", f"{everything[c]:.2f}")
    Console().print(table)


@app.command()
def scores(net: Net = "vgg", keep: float = 0.5, count: int = 1000, data: Path = DEBIAN) -> None:
    """|r_kk / r_11|, singular values and the predicted error of every group against the output
    error when that group alone is reduced.
    """
    pool = split("calibration", data)
    rows = group_scores(opened(trained(net), draw(pool.images, count, 0), 0), keep)
    table = Table(
        title=f"{net}: each group alone cut to {keep:.0%}, interpolated", title_justify="left"
    )
    for column in ("group", *SCORES, "measured error"):
        table.add_column(column, justify="left" if column == "group" else "right")
    for name, values in rows:
        table.add_row(name, *(f"{v:.2e}" for v in values))
    console = Console(width=140)
    console.print(table)
    measured = [values[-1] for _, values in rows]
    for index, name in enumerate(SCORES):
        console.print(
            f"Spearman rank correlation of {name} with the measured error: "
            f"{spearmanr([values[index] for _, values in rows], measured)[0]:.2f}"
        )


def group_scores(session: Session, keep: float) -> list[tuple[str, tuple[float, ...]]]:
    """By group, its `SCORES` at a share of its channels and the measured output error."""
    statistics = session.statistics
    ours, paper = statistics.profiles("output-aware"), statistics.profiles("pivoted-qr")
    moments = statistics.observed.all_moments
    interpolated = session.using(method=METHODS["paper-uniform"])
    orders = [profile.order for profile in ours]
    full = np.array([g.width for g in session.analysis.groups])
    held_out = next(iter(statistics.batches(session.split.held_out)))
    reference = logits(session.graph, held_out.args[0])
    norm = float((reference - reference.mean(1, keepdim=True)).square().sum())
    rows: list[tuple[str, tuple[float, ...]]] = []
    for i, group in enumerate(session.analysis.groups):
        sites = ((c.parameter, c.axis) for c in group.consumers)
        site = next((site for site in sites if site in moments), None)
        width = max(round(keep * group.width), 1)
        if site is None or width == group.width:
            continue
        widths = full.copy()
        widths[i] = width
        small = build(interpolated, keep_last(session.analysis, orders, widths))
        error = float((logits(small, held_out.args[0]) - reference).square().sum()) / norm
        gram = moments[site].grams[0]
        diagonal = pivoted_qr(gram)[1]
        singular = np.sqrt(np.clip(np.linalg.eigvalsh(gram)[::-1], 0, None))
        place = max(round(keep * len(gram)), 1)
        values = (
            float(paper[i].scores[group.width - width]),
            float(np.linalg.norm(diagonal[place:]) / np.linalg.norm(diagonal)),
            float(np.linalg.norm(singular[place:]) / np.linalg.norm(singular)),
            float(ours[i].errors[group.width - width]),
            error,
        )
        rows.append((group.name, values))
    return rows


if __name__ == "__main__":
    app()
