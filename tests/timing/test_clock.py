"""In which order calls are timed, and what memory counts; never how long it took."""

import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

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

    monkeypatch.setattr("torch.utils.benchmark.Timer", Timer)
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


def test_the_resident_memory_never_shrinks() -> None:
    before = clock.peak_resident_memory()
    assert before > 10_000_000, "torch alone takes more"
    held = torch.ones(20_000_000)
    assert clock.peak_resident_memory() >= max(before, held.nbytes)


def test_windows_keeps_the_peak_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=5, peak_wset=7))
    monkeypatch.setitem(sys.modules, "psutil", SimpleNamespace(Process=lambda: process))
    monkeypatch.setattr(sys, "platform", "win32")
    assert clock.peak_resident_memory() == 7


@pytest.fixture
def unnamed() -> Iterator[None]:
    """No processor has been asked for its name."""
    clock._processor_name.cache_clear()
    yield
    clock._processor_name.cache_clear()


@pytest.mark.usefixtures("unnamed")
def test_the_processor_has_the_makers_name() -> None:
    name = clock.machine_name(torch.device("cpu"))
    listed = Path("/proc/cpuinfo")
    if listed.exists() and "model name" in listed.read_text():
        assert name in listed.read_text()
    assert name


@pytest.mark.usefixtures("unnamed")
def test_an_unknown_processor_has_its_architectures_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> dict[str, str]:
        raise Exception("only works on some processors")

    monkeypatch.setattr("cpuinfo.get_cpu_info", refuse)
    assert clock.machine_name(torch.device("cpu")) in (platform.processor(), platform.machine())
