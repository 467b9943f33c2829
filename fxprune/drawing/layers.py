"""One report: what every channel group kept, and what that costs."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fxprune.drawing.style import AFTER, BEFORE, COLORS, INK, OTHER
from fxprune.graph.names import Alike
from fxprune.handover.report import Report
from fxprune.handover.rows import GroupRow
from fxprune.handover.tables import put_groups_together, tell_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 80
"""Rows: groups whose names differ in a number share one where there are more."""
ROW, HEAD = 0.2, 1.5
"""Inches that a row takes, and all else."""
ROUNDING = 1e-9
"""Errors below this are those of float32; the axis does not reach down to them."""


def rows_of(report: Report) -> list[Alike[GroupRow]]:
    """What stands in a row each."""
    return put_groups_together(report.groups, MOST)


def size_of(report: Report) -> tuple[float, float]:
    """Inches that the picture of a report takes, across and down."""
    names = max((len(row.name) for row in rows_of(report)), default=0)
    return 7.5 + 0.07 * min(names, 60), HEAD + ROW * max(len(rows_of(report)), 3)


def draw_report(figure: "Figure", report: Report) -> None:
    """Widths before and after, and predicted and measured errors, a row per channel group.

    Args:
        figure: an empty one.
        report: of a compressed model.
    """
    rows = rows_of(report)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    _draw_widths(left, rows)
    _draw_errors(right, rows)
    left.set_yticks(range(len(rows)), [_name(row) for row in rows])
    left.set_ylim(len(rows) - 0.4, -0.6)
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    figure.suptitle(_title(report), fontsize=10, ha="left", x=0.01)


def _title(report: Report) -> str:
    kept = report.flops[1] / max(report.flops[0], 1)
    a = report.agreement
    decided = (
        ""
        if a is None
        else f"; the same decision on {a.rate:.2%} of {a.examples} held-out {a.unit}s "
        f"(at least {a.bound:.2%})"
    )
    return f"{report.method}: {kept:.1%} of the FLOPs{decided}"


def _name(row: Alike[GroupRow]) -> str:
    times = f"{len(row.items)} x " if len(row.items) > 1 else ""
    name = row.name if len(row.name) <= 60 else f"{row.name[:28]}...{row.name[-29:]}"
    return times + name


def _draw_widths(axes: "Axes", rows: Sequence[Alike[GroupRow]]) -> None:
    at = range(len(rows))
    before = [sum(r.before for r in row.items) / len(row.items) for row in rows]
    after = [sum(r.after for r in row.items) / len(row.items) for row in rows]
    axes.barh(at, before, height=0.78, color=BEFORE, label="before")
    axes.barh(at, after, height=0.5, color=AFTER, label="after")
    longest = 0
    for y, (wide, row) in enumerate(zip(before, rows, strict=True)):
        kept = tell_range(r.after for r in row.items)
        whole = tell_range(r.before for r in row.items)
        text = whole if all(r.before == r.after for r in row.items) else f"{whole} → {kept}"
        longest = max(longest, len(text))
        axes.annotate(
            text, (wide, y), (3, 0), textcoords="offset points", va="center", fontsize=7, color=INK
        )
    axes.set_xlim(0, (1.05 + 0.017 * longest) * max(before, default=1))
    axes.set_xlabel("channels" + (", mean where a row is several groups" if _several(rows) else ""))


def _several(rows: Sequence[Alike[GroupRow]]) -> bool:
    return any(len(row.items) > 1 for row in rows)


def _draw_errors(axes: "Axes", rows: Sequence[Alike[GroupRow]]) -> None:
    predicted = [sum(r.error for r in row.items) for row in rows]
    measured = [max((r.measured or 0 for r in row.items), default=0) for row in rows]
    axes.set_xscale("log")
    kinds = (
        (predicted, "predicted (output)", COLORS[0], "o"),
        (measured, "measured (layer)", OTHER, "D"),
    )
    for errors, label, color, marker in kinds:
        shown = [(e, y) for y, e in enumerate(errors) if ROUNDING < e < math.inf]
        axes.plot([e for e, _ in shown], [y for _, y in shown], marker, color=color, label=label)
    found = [e for e in predicted + measured if ROUNDING < e < math.inf] or [1.0]
    low, high = math.floor(math.log10(min(found))), math.ceil(math.log10(max(found)))
    axes.set_xlim(10.0**low * 0.8, 10.0 ** max(high, low + 1) * 1.25)
    axes.hlines(range(len(rows)), *axes.get_xlim(), color="#EEEEEE", linewidth=0.6, zorder=0)
    axes.set_xlabel("relative squared error" + (", sum and largest" if _several(rows) else ""))
