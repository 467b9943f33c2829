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

    def measure_call(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        return OVERHEAD + PER_FLOP * flops_of(lambda: target(*args, **kwargs))

    monkeypatch.setattr(latency_probe, "time_in_turns", time_in_turns)
    monkeypatch.setattr(layer_times, "measure_call", measure_call)
    monkeypatch.setattr(layer_times, "cache_folder", lambda: tmp_path)
