"""What the studies share: a network with its images, and a table and a picture of what is found."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.datasets.images import split
from benchmarks.examination.outputs import logits
from benchmarks.models.nets import trained
from fxprune.demo import data as demo
from fxprune.drawing.picture import new_picture
from fxprune.drawing.style import COLORS, MARKERS, styled
from fxprune.linalg.clopper_pearson import lower_bound


@dataclass(frozen=True)
class Subject:
    """A network that is studied.

    Attributes:
        name, net: of it.
        pool: calibration images, none of which it was trained on, and `classes` (N,) what it takes
            them for: no label is needed.
        images, labels: to test on; nothing is fitted or chosen on them.
        decided: what the network takes these for.
    """

    name: str
    net: nn.Module
    pool: Tensor
    classes: Tensor
    images: Tensor
    labels: Tensor
    decided: Tensor

    @classmethod
    def of(cls, name: str, folder: Path | None) -> "Subject":
        """One of benchmarks.models.nets, with the images that come with fxprune (1,000 and 5,000)
        or those of a folder with Fashion-MNIST (5,000 and 10,000).
        """
        net = trained(name)
        if folder is None:
            held = demo.load()
            pool, images, labels = held.calibration, held.images, held.labels
        else:
            test = split("test", folder)
            pool, images, labels = split("calibration", folder).images, test.images, test.labels
        classes, decided = (logits(net, part).argmax(1) for part in (pool, images))
        return cls(name, net, pool, classes, images, labels, decided)

    def same(self, small: nn.Module) -> Tensor:
        """(N,) bool: on which test images another model decides alike."""
        return logits(small, self.images).argmax(1) == self.decided

    def judge(self, small: nn.Module) -> tuple[float, float, float]:
        """Share of equal decisions, its one-sided 95 % bound, and accuracy, on the test images."""
        found = logits(small, self.images).argmax(1)
        same = int((found == self.decided).sum())
        right = float((found == self.labels).float().mean())
        return same / len(found), lower_bound(same, len(found)), right

    def draw(self, count: int, seed: int, among: Tensor | None = None) -> Tensor:
        """So many calibration images, of some if these are named."""
        pool = self.pool if among is None else self.pool[among]
        order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
        return pool[order[:count]]


@dataclass(frozen=True)
class Found:
    """What a study gives.

    Attributes:
        name: of its files.
        title: of its table.
        columns, rows: of texts.
        draw: what draws it on an empty panel or several of a figure.
        panels: how many.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    draw: Callable[[Sequence[Any]], None]
    panels: int = 1


def put_out(found: Found, folder: Path) -> None:
    """Print the table, and write it as Markdown and the picture beside it."""
    table = Table(title=found.title, title_justify="left")
    for column in found.columns:
        table.add_column(column, justify="left" if column == found.columns[0] else "right")
    for row in found.rows:
        table.add_row(*row)
    console = Console(width=120)
    console.print(table)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [found.columns, ["---"] * len(found.columns), *found.rows]
    text = "".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines
    )
    (folder / f"{found.name}.md").write_text(text, encoding="utf-8")
    with styled():
        figure = new_picture(max(4.2 * found.panels, 5.5), 3.8)
        panels = figure.subplots(1, found.panels, squeeze=False)[0]
        found.draw(panels)
        for axes in panels[:1]:
            if len(axes.get_legend_handles_labels()[0]) > 1:
                axes.legend()
        figure.savefig(folder / f"{found.name}.png")
    console.print(f"Wrote {folder / found.name}.png and {found.name}.md", highlight=False)


def draw_lines(
    axes: Any, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, marks: str = "-"
) -> None:
    """Lines by name, each (across, up), in the colors and shapes of our pictures."""
    for at, (name, (across, up)) in enumerate(lines.items()):
        axes.plot(across, up, marks, color=COLORS[at], marker=MARKERS[at], label=name)


def percent(share: float) -> str:
    """Two digits behind the point."""
    return f"{100 * share:.2f}"
