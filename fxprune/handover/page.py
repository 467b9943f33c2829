"""A report as a page for a browser: the values that the templates beside this file show."""

import base64
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxprune.errors import StorageError
from fxprune.handover.chart import draw_curve
from fxprune.handover.figures import Figures
from fxprune.handover.rows import GroupRow
from fxprune.handover.summary import lines_of
from fxprune.handover.tables import (
    put_alone_together,
    tell_outputs,
    tell_perplexity,
    tell_range,
    tell_sizes,
)
from fxprune.verify.agreement import Agreement
from fxprune.verify.by_class import Changed, ClassAgreement

if TYPE_CHECKING:
    from jinja2 import Environment

CLASSES, ALONE = 40, 60
"""Rows that are shown."""
DECADES = 3
"""Powers of ten that an axis of errors shows at least."""
ROUNDING = 1e-9
"""Errors below this are those of float32; the axis does not reach down to them."""


def write_page(report: Figures, path: str | os.PathLike[str]) -> None:
    """Write the whole page.

    Raises:
        StorageError: the path cannot be written.
    """
    text = _environment().get_template("page.html.jinja").render(_values(report))
    try:
        Path(path).write_text(text, encoding="utf-8")
    except (OSError, ValueError, TypeError) as error:
        raise StorageError(
            f"The page cannot be written to {path!r}: {error}. Name a file such as report.html in "
            "a folder that exists."
        ) from error


def render(report: Figures) -> str:
    """The element that shows a report inside another page."""
    return _environment().get_template("report.html.jinja").render(_values(report))


def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    made.filters |= {"dots": _break_at_dots, "number": lambda value: f"{value:.4g}"}
    return made


def _break_at_dots(name: str) -> Any:
    """A name that may be broken behind its dots."""
    from markupsafe import Markup, escape

    return Markup(".<wbr>").join(escape(part) for part in name.split("."))


def _values(report: Figures) -> dict[str, Any]:
    agreement = report.agreement
    classes = () if agreement is None else agreement.classes
    low = min((found.low for found in classes), default=0.0)
    return {
        "report": report,
        "summary": lines_of(report),
        "sizes": _sizes(report),
        "chart": draw_curve(report.curve, report.flops[1] / max(report.flops[0], 1)),
        "layers": _layers(report.groups),
        "classes": _classes(classes, low),
        "hidden_classes": max(0, len(classes) - CLASSES),
        "axis": f"{100 * low:.0f} to 100 %",
        "compared": 0 if agreement is None else agreement.examples,
        "changed": [] if agreement is None else [_changed(c) for c in agreement.changed],
        "changed_of": "" if agreement is None else _tell_changed(agreement),
        "alone": [
            {
                "why": kind.reason,
                "name": kind.name,
                "count": len(kind.rows),
                "size": tell_range(row.size for row in kind.rows),
            }
            for kind in put_alone_together(report.alone, ALONE)
        ],
        "times": _times(report.seconds),
        "outputs": []
        if agreement is None
        else [*tell_outputs(agreement), *tell_perplexity(agreement)],
    }


def _sizes(report: Figures) -> list[dict[str, Any]]:
    pairs = (report.flops, report.params, report.bytes)
    return [
        {
            "name": name,
            "before": before,
            "after": after,
            "kept": kept,
            "share": min(100 * pair[1] / max(pair[0], 1), 100),
        }
        for (name, before, after, kept), pair in zip(tell_sizes(*pairs), pairs, strict=True)
    ]


def _layers(rows: Sequence[GroupRow]) -> list[dict[str, Any]]:
    widest = max((row.before for row in rows), default=1)
    errors = [e for row in rows for e in (row.error, row.measured or 0) if e < math.inf]
    errors = [error for error in errors if error > ROUNDING]
    high = math.ceil(math.log10(max(errors, default=1)))
    low = min(math.floor(math.log10(min(errors, default=1))), high - DECADES)

    def place(error: float | None) -> float | None:
        if error is None or not 0 < error < math.inf:
            return None
        return 98 * max(math.log10(error) - low, 0) / (high - low)

    return [
        {
            "name": row.title,
            "before": row.before,
            "after": row.after,
            "width": 100 * row.before / max(widest, 1),
            "share": 100 * row.after / max(widest, 1),
            "predicted": f"{row.error:.1e}" if row.error else "0",
            "measured": "" if row.measured is None else f"{row.measured:.1e}",
            "predicted_at": place(row.error),
            "measured_at": place(row.measured),
        }
        for row in rows
    ]


def _classes(found: Sequence[ClassAgreement], low: float) -> list[dict[str, Any]]:
    def place(rate: float) -> float:
        return 98 * (rate - low) / max(1 - low, 1e-9)

    return [
        {
            "name": c.name,
            "examples": c.examples,
            "rate": f"{c.rate:.1%}",
            "interval": f"{100 * c.low:.1f} to {100 * c.high:.1f} %",
            "low_at": place(c.low),
            "high_at": place(c.high),
            "rate_at": place(c.rate),
        }
        for c in sorted(found, key=lambda c: c.rate)[:CLASSES]
    ]


def _changed(example: Changed) -> dict[str, Any]:
    picture = None
    if example.picture is not None:
        picture = "data:image/png;base64," + base64.b64encode(example.picture.png()).decode()
    return {
        "number": example.number,
        "before": example.before,
        "after": example.after,
        "picture": picture,
    }


def _tell_changed(agreement: Agreement) -> str:
    count = round((1 - agreement.rate) * agreement.examples)
    shown = len(agreement.changed)
    few = "" if shown >= count else f"; the first {shown} of them"
    return f"{count} of {agreement.examples} held-out examples, the original's decision first{few}."


def _times(seconds: dict[str, float]) -> list[dict[str, Any]]:
    longest = max(seconds.values(), default=0.0) or 1.0
    return [
        {"name": name, "share": 100 * took / longest, "seconds": f"{took:.2f}"}
        for name, took in sorted(seconds.items(), key=lambda item: -item[1])
    ]
