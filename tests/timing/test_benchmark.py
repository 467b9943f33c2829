"""What is measured and in which order; never how long it took."""

import copy
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.capture.batch import make_batch
from fxprune.errors import UnsupportedError
from fxprune.timing import clock
from fxprune.timing.workload import place_batch, prepare_call
from tests.nets import images, tiny


def test_rows_and_figures() -> None:
    model = tiny().train()
    small = fxprune.compress(model, images(64), flops=0.5, method="magnitude", progress=False)
    before, threads = copy.deepcopy(model.state_dict()), torch.get_num_threads()
    found = fxprune.benchmark(
        small,
        model,
        images(3),
        batches=(1, 5),
        modes=("eager",),
        rounds=3,
        seconds=0.001,
        threads=threads + 1,
    )
    assert [(r.mode, r.batch) for r in found.rows] == [("eager", 1), ("eager", 5)]
    for row in found.rows:
        assert row.original > 0
        assert row.small > 0
        assert row.low <= row.speedup <= row.high
        assert row.memory[1] < row.memory[0]
    assert (found.threads, torch.get_num_threads()) == (threads + 1, threads)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert found.row("eager", 5) is found.rows[1]
    with pytest.raises(KeyError):
        found.row("compiled", 5)
    assert json.loads(found.to_json())["rows"][1]["batch"] == 5
    assert "speedup" in str(found)
    assert "interleaved rounds" in str(found)


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


def test_a_workload_places_the_inputs() -> None:
    batch = make_batch((torch.arange(3.0).unsqueeze(1),), {"index": torch.arange(3)})
    found = place_batch(batch, fxprune.Workload(batch=5, dtype=torch.bfloat16), torch.device("cpu"))
    assert found.args[0].flatten().tolist() == [0, 1, 2, 0, 1]
    assert found.args[0].dtype is torch.bfloat16
    assert found.kwargs["index"].tolist() == [0, 1, 2, 0, 1]
    assert (
        fxprune.benchmark(
            tiny(),
            tiny(),
            images(2),
            modes=("eager",),
            batches=(2,),
            rounds=1,
            dtype=torch.bfloat16,
        ).dtype
        == "bfloat16"
    )


def test_errors_name_the_workload() -> None:
    with pytest.raises(UnsupportedError, match="batch=0: a workload has a whole number"):
        fxprune.Workload(batch=0)
    with pytest.raises(UnsupportedError, match="threads=True"):
        fxprune.Workload(threads=True)
    with pytest.raises(UnsupportedError, match="'quick' is not one of eager, compiled"):
        fxprune.benchmark(tiny(), tiny(), images(2), modes=("quick",))
    with pytest.raises(UnsupportedError, match="rounds=0"):
        fxprune.benchmark(tiny(), tiny(), images(2), rounds=0)
    with pytest.raises(
        UnsupportedError, match="Tiny does not run eager at batch 1 on its device: RuntimeError"
    ):
        fxprune.benchmark(tiny(), tiny(), torch.zeros(2, 5, 8, 8), modes=("eager",), batches=(1,))
