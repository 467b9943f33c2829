"""A clock that the tests set: every call takes a time that follows from its FLOPs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

from fxprune.timing import latency_probe, layer_times
from fxprune.timing.workload import Call

OVERHEAD, PER_FLOP = 2e-6, 1e-9


def flops_of(call: Call) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every call takes `OVERHEAD` and `PER_FLOP`; a whole model 20 % more for its FLOPs than its
    calls suggest.
    """

    def time_in_turns(calls: list[Call], rounds: int, seconds: float) -> np.ndarray:
        return np.array(
            [[20 * OVERHEAD + 1.2 * PER_FLOP * flops_of(call) for call in calls]] * rounds
        )

    class Timer:
        def __init__(self, stmt: str, globals: dict[str, Any], num_threads: int):
            self.call = lambda: globals["f"](*globals["a"], **globals["k"])

        def timeit(self, number: int) -> "Timer":
            self.mean = OVERHEAD + PER_FLOP * flops_of(self.call)
            return self

    monkeypatch.setattr(latency_probe, "time_in_turns", time_in_turns)
    monkeypatch.setattr(layer_times, "Timer", Timer)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
