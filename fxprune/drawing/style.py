"""How every picture looks: one style sheet, colors that the color-blind can tell apart."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, the darker ones first: on white, and to readers of every kind of color vision,
each differs from the others (Wong, Nature Methods 8, 2011).
"""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""One for each color: what differs in color differs in shape too."""
BEFORE, AFTER, OTHER = "#C6D3DF", COLORS[0], COLORS[1]
"""What there was, what is left of it, and what stands beside that."""
INK, FAINT = "#4D4D4D", "#E4E4E4"
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 150.0,
    # Text in an SVG stays text, which can be searched and read aloud.
    "svg.fonttype": "none",
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw with our style sheet; the caller's comes back as it was."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        yield
