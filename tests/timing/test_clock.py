"""In which order calls are timed, and what memory counts; never how long it took."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.capture.batch import make_batch
from fxprune.timing import clock
from fxprune.timing.workload import prepare_call


def test_models_take_turns_in_alternating_order(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []

    class Timer:
        def __init__(
            self, stmt: str, timer: Callable[[], float], globals: dict[str, str], num_threads: int
        ):
            self.name = globals["call"]

        def timeit(self, number: int) -> "Timer":
            turns.append(self.name)
            return self

        mean = 1.0

    monkeypatch.setattr(clock, "Timer", Timer)
    assert clock.time_in_turns(["a", "b"], rounds=3, seconds=0.1).shape == (3, 2)  # type: ignore[list-item]
    assert "".join(turns) == "ab" + "ab" + "ba" + "ab"


def test_peak_memory_counts_what_lives_together() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x + 1  # 4 kB
            z = torch.cat([y, y])  # 8 kB, beside y
            del y
            return z.sum(0, keepdim=True).expand(3, -1)

    x = torch.zeros(1000)
    call = prepare_call(Two(), make_batch((torch.zeros(1, 1000),), {}), fxprune.Workload())
    assert 12_000 <= clock.measure_peak_memory(call, x.device) < 13_000
