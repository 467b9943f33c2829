"""What is lost against what is kept, on a logarithmic axis that has a place for nothing."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fxprune.drawing.style import COLORS, INK, MARKERS
from fxprune.handover.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BREAK = 0.45
"""Decades between the lowest power of ten and where nothing is drawn."""
ROUNDING = 1e-9
"""Errors below this are those of float32, and count as none."""
BESIDE = 0.6
"""Percent of the FLOPs between the intervals of several curves, so that none hides another."""
LABELED = 12
"""Points of a single curve whose values are written beside them."""


@dataclass(frozen=True)
class Spot:
    """A model in a trade-off.

    Attributes:
        kept: share of the FLOPs.
        lost: share of changed decisions, or an error; 0 for none.
        high: upper end of its interval; None where there is none.
    """

    kept: float
    lost: float
    high: float | None = None


def draw_sweeps(figure: "Figure", curves: Mapping[str, Sequence[Report]]) -> None:
    """Changed decisions, up to the share that is excluded with 95 % confidence, and the error of
    the output, against the FLOPs that are kept.

    Args:
        figure: an empty one.
        curves: reports of the models of each, by its name.
    """
    left, right = figure.subplots(1, 2, sharex=True)
    points = {name: [r.point for r in reports] for name, reports in curves.items()}
    held = {name: [p for p in own if p is not None] for name, own in points.items()}
    draw_curves(
        left,
        {n: [Spot(p.flops, 1 - p.rate, 1 - p.bound) for p in own] for n, own in held.items()},
        percent=True,
    )
    draw_curves(right, {n: [Spot(p.flops, p.error) for p in own] for n, own in held.items()})
    examples = {p.examples for own in held.values() for p in own}
    of = f" of {min(examples):,}" if len(examples) == 1 else ""
    left.set(
        title="Decisions that changed, up to the 95 % bound",
        ylabel=f"%{of} held-out examples".strip(),
    )
    right.set(title="Error of the output", ylabel="relative squared error")
    for axes in (left, right):
        axes.set_xlabel("FLOPs kept, %")
    if any(curves):
        handles = left.get_legend_handles_labels()[0]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 7))


def draw_curves(
    axes: "Axes", curves: Mapping[str, Sequence[Spot]], *, percent: bool = False
) -> None:
    """Curves, the shaded intervals above them, and the original as a point that lost nothing.

    Args:
        axes: an empty panel.
        curves: spots of each, by its name; where there is one, values stand beside them.
        percent: whether shares are lost.
    """
    scale = 100.0 if percent else 1.0
    spots = [spot for own in curves.values() for spot in own]
    zero = _set_scale(axes, [v * scale for s in spots for v in (s.lost, s.high or 0)], percent)

    def height(value: float) -> float:
        if not math.isfinite(value):
            return math.nan  # is not drawn
        return value * scale if value * scale > (0 if percent else ROUNDING) else zero

    for at, (name, own) in enumerate(curves.items()):
        color, marker = COLORS[at % len(COLORS)], MARKERS[at % len(MARKERS)]
        line = sorted(own, key=lambda spot: spot.kept)
        across, up = [100 * s.kept for s in line], [height(s.lost) for s in line]
        axes.plot(across, up, color=color, marker=marker, label=name or "compressed", zorder=3)
        if line and all(s.high is not None for s in line):
            high = [height(s.high or 0) for s in line]
            beside = BESIDE * (at - (len(curves) - 1) / 2)
            axes.vlines([x + beside for x in across], up, high, color=color, linewidth=1, zorder=2)
            if len(curves) == 1:
                axes.fill_between(across, up, high, color=color, alpha=0.13, lw=0, zorder=1.5)
        if len(curves) == 1 and len(line) <= LABELED:
            _write_values(axes, across, up, [s.lost * scale for s in line], percent)
    axes.plot(
        [100], [zero], "*", color=INK, markersize=10, label="original", clip_on=False, zorder=4
    )
    if len(curves) == 1:
        axes.annotate(
            "original", (100, zero), (0, 7), textcoords="offset points", ha="center", fontsize=7
        )
    low = min((100 * s.kept for s in spots), default=0.0)
    axes.set_xlim(max(0.0, low - 6), 103)


def _set_scale(axes: "Axes", values: Iterable[float], percent: bool) -> float:
    """A logarithmic axis for what there is, with a tick for nothing below it: where that lies."""
    floor = 0 if percent else ROUNDING
    positive = [v for v in values if floor < v < math.inf] or [1.0]
    low = math.floor(math.log10(min(positive)))
    high = max(math.ceil(math.log10(max(positive))), low + 1)
    zero = 10 ** (low - BREAK)
    powers = [10.0**power for power in range(low, high + 1)]
    axes.set_yscale("log")
    axes.set_ylim(10 ** (low - 1.4 * BREAK), 10.0 ** (high + 0.04 * (high - low)))
    names = [f"{p:g}" if percent else f"$10^{{{round(math.log10(p))}}}$" for p in powers]
    axes.set_yticks([zero, *powers], ["0", *names])
    between = [(k, k * p) for p in powers[:-1] for k in range(2, 10)]
    written = (2, 5) if percent and high - low == 1 else ()
    texts = [f"{value:g}" if k in written else "" for k, value in between]
    axes.set_yticks([value for _, value in between], texts, minor=True)
    axes.axhspan(
        10 ** (low - 0.56 * BREAK), 10 ** (low - 0.44 * BREAK), color="white", zorder=1, lw=0
    )
    return zero


def _write_values(
    axes: "Axes",
    across: Sequence[float],
    up: Sequence[float],
    values: Sequence[float],
    percent: bool,
) -> None:
    for x, y, value in zip(across, up, values, strict=True):
        if not math.isfinite(value):
            continue
        text = f"{value:.2g} %" if percent else f"{value:.1e}"
        axes.annotate(
            text, (x, y), (5, 3), textcoords="offset points", ha="left", va="bottom", fontsize=7
        )
