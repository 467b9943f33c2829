"""Where the points and ticks of a trade-off lie in its picture; the template draws them."""

import math
from collections.abc import Sequence
from typing import Any

from fxprune.handover.rows import Point

WIDTH, HEIGHT = 600, 320
LEFT, RIGHT, TOP, BOTTOM = 85, 560, 45, 258
FEWEST = 0.5
"""Changed decisions that stand for none on a logarithmic axis."""


def draw_curve(points: Sequence[Point], kept: float) -> dict[str, Any] | None:
    """Changed decisions on a logarithmic axis, over the share of the FLOPs that is kept.

    Args:
        points: of one calibration.
        kept: the share that the report's own model keeps.

    Returns:
        what the template draws, in units of the picture; None where there are not two points.
    """
    if len(points) < 2:
        return None
    spans = [_span(p) for p in points]
    low = math.floor(math.log10(min(least for least, _ in spans)))
    high = math.ceil(math.log10(max(most for _, most in spans)))

    def height(share: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (math.log10(share) - low) / max(high - low, 1), 1)

    def across(flops: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * min(flops, 1.0), 1)

    nearest = min(points, key=lambda p: abs(p.flops - kept))
    drawn = [
        {
            "x": across(p.flops),
            "y": height(least),
            "top": height(most),
            "this": p is nearest,
            "flops": f"{p.flops:.1%}",
            "rate": f"{p.rate:.2%}",
            "bound": f"{p.bound:.2%}",
            "error": f"{p.error:.1e}",
        }
        for p, (least, most) in zip(points, spans, strict=True)
    ]
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": RIGHT,
        "bottom": BOTTOM,
        "rows": [
            {"at": height(10.0**power), "text": f"{100 * 10.0**power:g} %"}
            for power in range(low, high + 1)
        ],
        "columns": [
            {"at": across(share / 100), "text": f"{share} %"} for share in range(0, 101, 25)
        ],
        "points": sorted(drawn, key=lambda point: float(str(point["x"]))),
    }


def _span(point: Point) -> tuple[float, float]:
    """Shares of changed decisions, measured and certified, above 0."""
    least = FEWEST / max(point.examples, 1)
    changed = max(1 - point.rate, least)
    return changed, min(max(1 - point.bound, changed), 1.0)
