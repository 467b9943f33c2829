"""Widths that meet a latency on the clock.

The table of layer times cannot know what fusion, caches and the overhead of Python do. The limit
that widths are allocated under is corrected until whole rewritten graphs take the time asked for
(docs/decisions/0005).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fxprune.errors import BudgetError
from fxprune.timing.workload import Workload

RANGE = (0.94, 1.02)
"""Measured latency over the budget that needs no correction."""
CORRECTIONS = 4
"""Different widths that are measured at most."""
CLOSE = 1.1
"""Where widths in multiples leave nothing in the range, the nearest below this times the budget is
taken.
"""


@dataclass(frozen=True)
class MeasuredWidths:
    """Widths whose rewritten graph was measured.

    Attributes:
        widths: of every group.
        limit: the modeled latency they were allocated under.
        measured: time over the original's.
    """

    widths: np.ndarray
    limit: float
    measured: float


def meet_latency(
    measure: Callable[[np.ndarray], float],
    target: float,
    smallest: np.ndarray,
    modeled: Callable[[np.ndarray], float],
    allocate: Callable[[float], np.ndarray],
    workload: Workload,
    start: float | None = None,
) -> MeasuredWidths:
    """Correct the modeled limit until the measured latency is the target's: regula falsi on
    measurements of whole graphs.

    Args:
        measure: time of the graph with these widths over the original's.
        target: time to reach, over the original's.
        smallest: widths below which nothing goes.
        modeled: the cost model's latency of widths, as a fraction.
        allocate: widths under a modeled limit.
        workload: for messages.
        start: modeled limit to try first.

    Raises:
        BudgetError: not even the smallest widths are as fast.
    """
    low, high = (
        MeasuredWidths(smallest, modeled(smallest), measure(smallest)),
        MeasuredWidths(smallest, 1.0, 1.0),
    )
    if low.measured > RANGE[1] * target:
        raise BudgetError(
            f"latency={target:g} cannot be reached: at the smallest widths, one multiple per "
            f"group, the model takes {low.measured:.2f} of the original's "
            f"time ({workload}). The rest is the overhead of calls, and layers that keep their "
            "width; it weighs less in larger batches and "
            "where the model is compiled (workload=)."
        )
    tried: list[MeasuredWidths] = []
    limit = start
    for _ in range(4 * CORRECTIONS):
        if limit is None:
            step = (target - low.measured) / max(high.measured - low.measured, 1e-9)
            limit = low.limit + min(max(step, 0.02), 0.98) * (high.limit - low.limit)
        widths = allocate(limit)
        earlier = next((t for t in tried if np.array_equal(widths, t.widths)), None)
        attempt = MeasuredWidths(
            widths, limit, measure(widths) if earlier is None else earlier.measured
        )
        if RANGE[0] * target <= attempt.measured <= RANGE[1] * target:
            return attempt
        low, high = (low, attempt) if attempt.measured > target else (attempt, high)
        # Widths in coarse multiples come again: the jump between two of them is looked for by
        # halves.
        limit = None if earlier is None else (low.limit + high.limit) / 2
        tried += [attempt] if earlier is None else []
        if len(tried) == CORRECTIONS:
            break
    return min(tried, key=lambda t: (t.measured > CLOSE * target, abs(t.measured - target)))
