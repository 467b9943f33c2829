"""The search for a latency converges in few measurements, also between coarse widths."""

import numpy as np
import pytest

from fxprune.errors import BudgetError
from fxprune.timing.latency_target import meet_latency
from fxprune.timing.workload import Workload


def closing(overhead: float, bound: float, target: float) -> tuple[float, int]:
    """`close` over one group of 1000 channels; measured = overhead + the rest, modeled without
    overhead, widths at most `bound`.
    """
    calls: list[float] = []

    def measure(widths: np.ndarray) -> float:
        calls.append(float(widths[0]))
        result: float = overhead + (1 - overhead) * (float(widths[0]) / 1000) ** 1.5
        return result

    found = meet_latency(
        measure,
        target,
        np.array([1]),
        lambda w: float(w[0]) / 1000,
        lambda limit: np.array([min(int(1000 * limit), int(bound))]),
        Workload(),
    )
    return found.measured, len(calls)


def test_corrections_converge_in_few_measurements() -> None:
    for overhead in (0.0, 0.2, 0.4):
        for target in (0.5, 0.6, 0.9):
            found, count = closing(overhead, 1000, target)
            assert 0.9 * target <= found <= 1.02 * target
            assert count <= 5
    assert closing(0.1, 200, 0.5)[0] < 0.5, (
        "another limit holds the widths down: no error, and no endless search"
    )
    with pytest.raises(BudgetError, match=r"takes 0\.70"):
        closing(0.7, 1000, 0.5)


def test_between_coarse_widths_the_jump_is_found() -> None:
    """Time falls steeply between two multiples, where the model expects an even slope."""

    def widths(limit: float) -> np.ndarray:
        return np.array([max(int(limit * 8), 1) * 16])

    def measured(found: np.ndarray) -> float:
        return 1.0 if found[0] > 112 else 0.05 + 0.0004 * float(found[0]) ** 1.5 * 0.9

    best = max(
        (w for w in range(16, 113, 16) if measured(np.array([w])) <= 0.55),
        key=lambda w: measured(np.array([w])),
    )
    found = meet_latency(
        measured, 0.5, np.array([16]), lambda w: float(w[0]) / 128, widths, Workload()
    )
    assert found.widths.tolist() == [best]
