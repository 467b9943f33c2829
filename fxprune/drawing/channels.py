"""The channel graph: which layers make, scale and read every channel group."""

import math
from typing import TYPE_CHECKING

from fxprune.drawing.lanes import Lanes, Strand
from fxprune.drawing.style import AFTER, FAINT, INK, OTHER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

ROW, LANE, LETTER = 0.2, 0.27, 0.062
"""Inches that a row takes, a lane, and a letter of a name."""
HEAD, SIDE = 1.3, 1.3
"""Inches above and below the rows, and beside names and lanes, for what stays."""
SHAPE = 1.5
"""How much wider than high the picture is."""


def columns_of(lanes: Lanes) -> int:
    """Columns that the rows are shown in, one continued in the next, like a page of a paper."""
    high = ROW * max(len(lanes.rows), 1)
    return max(1, round(math.sqrt(SHAPE * high / _across(lanes))))


def _across(lanes: Lanes) -> float:
    names = max((len(row.name) for row in lanes.rows), default=0)
    return LETTER * names + LANE * (lanes.count + 1) + SIDE


def size_of(lanes: Lanes) -> tuple[float, float]:
    """Inches that the picture takes, across and down."""
    columns = columns_of(lanes)
    return max(columns * _across(lanes), 7.5), HEAD + ROW * _rows(lanes)


def _rows(lanes: Lanes) -> int:
    return math.ceil(max(len(lanes.rows), 1) / columns_of(lanes))


def draw_channels(figure: "Figure", lanes: Lanes, alone: int) -> None:
    """Rows and strands, in columns.

    Args:
        figure: an empty one, of `size_of` inches.
        lanes: where all lies.
        alone: weight axes that are left alone.
    """
    step = _rows(lanes)
    for column, axes in enumerate(figure.subplots(1, columns_of(lanes), squeeze=False)[0]):
        _draw_column(axes, lanes, column * step, step)
    groups = f"{len(lanes.strands)} channel groups of {len(lanes.rows)} layers"
    rest = f"; {alone} weight axes stay as they are, see .pinned" if alone else ""
    figure.suptitle(groups + rest, fontsize=10, ha="left", x=0.01)
    figure.legend(handles=_legend(), loc="outside lower left", ncols=3)


def _draw_column(axes: "Axes", lanes: Lanes, start: int, step: int) -> None:
    rows = lanes.rows[start : start + step]
    stop = start + len(rows)
    axes.set_xlim(-0.7, lanes.count + SIDE / LANE)
    axes.set_ylim(start + step - 0.3, start - 1.2)
    axes.grid(visible=False)
    axes.set_yticks(range(start, stop), [row.name for row in rows], fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.hlines(range(start, stop), -0.7, lanes.count - 0.5, color=FAINT, linewidth=0.6, zorder=0)
    for strand in lanes.strands.values():
        if strand.first < stop and strand.last >= start:
            _draw_strand(axes, strand, start, stop)
    for at, row in enumerate(rows, start):
        across = [lanes.strands[group].lane for group in row.touched]
        axes.hlines(at, min(across), max(across), color=INK, linewidth=1, zorder=3)
        for groups, marker, fill in (
            (row.reads, "o", "white"),
            (row.makes, "o", INK),
            (row.scales, "D", "white"),
        ):
            axes.scatter(
                *([lanes.strands[g].lane for g in groups], [at] * len(groups)),
                s=26,
                marker=marker,
                facecolor=fill,
                edgecolor=INK,
                linewidth=1,
                zorder=4,
            )
        if row.stays:
            axes.text(lanes.count - 0.3, at, row.stays, fontsize=6, color=INK, va="center")


def _draw_strand(axes: "Axes", strand: Strand, start: int, stop: int) -> None:
    """One channel group within the rows of a column, its width at its upper end."""
    color = OTHER if strand.coupled else AFTER
    first = strand.first if strand.first >= start else start - 0.6
    last = strand.last if strand.last < stop else stop - 0.4
    axes.plot(
        [strand.lane] * 2,
        [first, last],
        color=color,
        linewidth=5,
        alpha=0.75,
        solid_capstyle="round" if first == strand.first else "butt",
        zorder=1,
    )
    axes.text(
        *(strand.lane, max(first, start) - 0.58, strand.text),
        fontsize=6.5,
        color=color,
        ha="center",
        va="center",
        zorder=3.5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )


def _legend() -> list["Line2D"]:
    from matplotlib.lines import Line2D

    def mark(marker: str, fill: str, text: str) -> Line2D:
        return Line2D(
            [],
            [],
            linestyle="",
            marker=marker,
            markerfacecolor=fill,
            markeredgecolor=INK,
            label=text,
        )

    def bar(color: str, text: str) -> Line2D:
        return Line2D([], [], color=color, linewidth=5, alpha=0.75, label=text)

    return [
        bar(AFTER, "channel group, made by one layer"),
        bar(OTHER, "coupled: several layers make its channels"),
        mark("o", INK, "makes the channels"),
        mark("o", "white", "reads them"),
        mark("D", "white", "works channel by channel"),
    ]
