"""The picture of docs/architecture.md: `python -m benchmarks.architecture docs/architecture.svg`.

Rooms are boxes in the order a model passes them; on the arrows stands what each hands to the next.
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Annotated

import typer

WIDTH, LEFT, BOX, STEP, TOP = 720, 30, 260, 88, 62


@dataclass(frozen=True)
class Station:
    """One box.

    Attributes:
        room: the folder or file.
        call: the function that does it, as `module.function` within `fxprune`.
        gives: the value that it hands on.
        asks: rooms that it calls on its way.
    """

    room: str
    call: str
    gives: str
    asks: str = ""


STATIONS = (
    Station("api", "api.compressing.compress", "Options", "plans: the method and the budget"),
    Station("pipeline", "pipeline.compress_whole", "model, loader, Options"),
    Station("capture", "capture.export.capture", "Captured: a canonical graph", "graph"),
    Station("label", "label.analysis.analyze_graph", "Analysis: channel groups", "rules, graph"),
    Station(
        "session",
        "session.open_session",
        "Session, Statistics",
        "calibrate: loader and split, read when asked for",
    ),
    Station(
        "allocate",
        "allocate.allocation.allocate",
        "Allocation: plan, keep mask",
        "profile, timing; fit, to try candidates",
    ),
    Station(
        "fit",
        "fit.build.build",
        "GraphModule of ATen calls, fitted",
        "passes: ReduceChannels, Factorize; linalg",
    ),
    Station("verify", "verify.agreement.compare", "Agreement with its bound", "linalg"),
    Station(
        "handover",
        "handover.finish.hand_over",
        "GraphModule with plan and report",
        "passes: LiftModules",
    ),
)


def _text(x: float, y: float, words: str, size: int = 13, style: str = "") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" {style}>{escape(words)}</text>'


def draw() -> str:
    """The picture as SVG."""
    height = TOP + STEP * len(STATIONS) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="Helvetica, Arial, sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 10 5 0 10z" fill="#444"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(LEFT, 30, "From a model and its calibration data to the compressed module", 17),
        _text(LEFT + BOX + 80, 50, "asks on the way", 12, 'fill="#666"'),
    ]
    for i, station in enumerate(STATIONS):
        y = TOP + STEP * i
        parts += [
            f'<rect x="{LEFT}" y="{y}" width="{BOX}" height="50" rx="6" fill="#e8eef7" '
            'stroke="#33557a"/>',
            _text(LEFT + 12, y + 21, station.room, 15, 'font-weight="bold"'),
            _text(LEFT + 12, y + 40, station.call, 12, 'font-family="monospace"'),
            _text(LEFT + BOX / 2 + 14, y + 71, station.gives),
            _text(LEFT + BOX + 80, y + 30, station.asks, 12, 'fill="#444"'),
        ]
        if station.asks:
            parts.append(
                f'<path d="M{LEFT + BOX} {y + 25}h72" stroke="#999" stroke-dasharray="3 4"/>'
            )
        last = i == len(STATIONS) - 1
        down = y + (STEP - 2 if not last else 80)
        parts.append(
            f'<path d="M{LEFT + BOX / 2} {y + 50}V{down}" stroke="#444" stroke-width="1.5" '
            'marker-end="url(#tip)"/>'
        )
    return "\n".join([*parts, "</svg>", ""])


def main(file: Annotated[Path, typer.Argument(help="where to write the picture")]) -> None:
    """Write the picture."""
    file.write_text(draw())


if __name__ == "__main__":
    typer.run(main)
