"""Latency as a budget, on clocks that the tests set: widths follow the measured times, whatever
they are.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fxprune
from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.errors import BudgetError
from fxprune.label.analysis import analyze_graph
from fxprune.label.groups import Cost
from fxprune.profile.costs import CostModel
from fxprune.timing import latency_probe, layer_times
from fxprune.timing.latency_model import fit_call_seconds
from fxprune.timing.latency_probe import LatencyProbe
from fxprune.timing.latency_target import meet_latency
from fxprune.timing.layer_times import LayerTimes
from fxprune.timing.multiples import choose_multiples
from fxprune.timing.workload import Call, Workload
from tests.nets import images, tiny

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


def wide() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(
            nn.Conv2d(3, 32, 3),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ),
        *(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4)),
    ).eval()


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("method", "target"), [("uniform", 0.5), ("auto", 0.6), ("magnitude", 0.75)]
)
def test_a_budget_is_reached_on_the_clock(method: str, target: float) -> None:
    model, batch = wide(), 4
    workload = Workload(batch=batch)
    small = fxprune.compress(
        model,
        images(96),
        latency=target,
        workload=workload,
        method=method,
        round_to=1,
        progress=False,
    )
    probe = LatencyProbe(model, make_batch((images(2),), {}), workload)
    assert 0.9 * target < probe.ratio(small) <= 1.02 * target
    (note,) = [n for n in fxprune.report(small).notes if n.startswith("measured latency")]
    assert "eager, batch 4" in note
    assert fxprune.plan_of(small).settings["latency"] == target


@pytest.mark.usefixtures("clock")
def test_latency_joins_other_budgets() -> None:
    small = fxprune.compress(
        wide(), images(96), latency=0.9, flops=0.3, method="magnitude", progress=False
    )
    before, after = fxprune.report(small).flops
    assert after <= 0.3 * before
    widths = fxprune.plan_of(small).widths
    assert all(width % 8 == 0 for width in widths.values()), (
        "round_to is auto where latency is limited"
    )


@pytest.mark.usefixtures("clock")
def test_out_of_reach_names_the_closest() -> None:
    with pytest.raises(
        BudgetError,
        match=r"latency=0\.05 cannot be reached.*takes 0\.\d\d of the original's time "
        r"\(eager, batch 1\)",
    ):
        fxprune.compress(tiny(), images(64), latency=0.05, method="magnitude", progress=False)
    with pytest.raises(BudgetError, match=r"latency=1\.5"):
        fxprune.compress(tiny(), images(64), latency=1.5)


@pytest.mark.usefixtures("clock")
def test_terms_reproduce_the_clock(tmp_path: Path) -> None:
    model, example = wide(), make_batch((images(2),), {})
    captured = capture(model, example)
    analysis = analyze_graph(captured.graph, example.size)
    probe, table = (
        LatencyProbe(model, example, Workload(batch=2)),
        LayerTimes(torch.device("cpu"), Workload(batch=2), tmp_path),
    )
    terms = fit_call_seconds(captured.graph, analysis, example, probe, np.array(1), table)
    costs = CostModel(captured.graph, analysis, terms)
    # Contractions are exact; the other calls stand for the rest of the original's time.
    assert sum(t.flops for t in terms) == pytest.approx(probe.seconds, rel=1e-6)
    linear = [t for t in terms if t.node == "linear" and len(t.factors) == 2]
    assert sum(t.flops for t in linear) == pytest.approx(PER_FLOP * 2 * 2 * 64 * 32, rel=1e-3)
    assert costs.fractions(costs.full)["latency"] == pytest.approx(1)
    shrinking = [costs.fractions(share * costs.full)["latency"] for share in (1.0, 0.8, 0.5, 0.1)]
    assert shrinking == sorted(shrinking, reverse=True)


def test_a_table_is_measured_once(tmp_path: Path) -> None:
    add, relu = torch.ops.aten.add.Tensor, torch.ops.aten.relu_.default
    x = torch.full((3, 4), -1.0)
    table = LayerTimes(torch.device("cpu"), Workload(), tmp_path / "new")
    first = table.time(add, (x, x), {})
    assert table.time(add, (x, x), {}) == first
    table.time(relu, (x,), {})
    assert x.eq(-1).all(), "operators that change their inputs work on copies"
    table.time(add, (x, x.T.contiguous().T), {})
    assert table.measured == 3
    table.save()
    again = LayerTimes(torch.device("cpu"), Workload(), tmp_path / "new")
    assert again.time(add, (x, x), {}) == first
    assert again.measured == 0
    assert (
        LayerTimes(
            torch.device("cpu"), Workload(threads=torch.get_num_threads() + 1), tmp_path
        ).path
        != again.path
    )
    assert "threads" in json.loads(again.path.read_text())["target"]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"seconds": {"a": "b"}}', '{"seconds": {"a": -1}}', '{"seconds": 3}', "\0"]
)
def test_an_unreadable_table_counts_as_empty(text: str, tmp_path: Path) -> None:
    path = LayerTimes(torch.device("cpu"), Workload(), tmp_path).path
    path.write_text(text)
    assert LayerTimes(torch.device("cpu"), Workload(), tmp_path).seconds == {}


def closing(overhead: float, bound: float, target: float) -> tuple[float, int]:
    """`close` over one group of 1000 channels; measured = overhead + the rest, modeled without
    overhead, widths at most `bound`.
    """
    calls: list[float] = []

    def measure(widths: np.ndarray) -> float:
        calls.append(float(widths[0]))
        return overhead + (1 - overhead) * (float(widths[0]) / 1000) ** 1.5

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


def test_multiples_leave_narrow_groups_two_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(
        nn.Linear(3, 6),
        nn.ReLU(),
        nn.Linear(6, 32),
        nn.ReLU(),
        nn.Linear(32, 512),
        nn.ReLU(),
        nn.Linear(512, 2),
    )
    captured = capture(model, make_batch((torch.randn(2, 3),), {}))
    analysis = analyze_graph(captured.graph, 2)
    assert [g.channels for g in analysis.groups] == [6, 32, 512]
    for capability, top in (("AVX2", 8), ("AVX512", 16)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda held=capability: held)
        assert choose_multiples(analysis, model, Workload()) == [2, min(16, top), top]
    assert choose_multiples(analysis, model, Workload(device="cuda")) == [2, 8, 8]
    assert choose_multiples(analysis, model, Workload(device="cuda", dtype=torch.bfloat16)) == [
        2,
        16,
        16,
    ]


def test_cost_terms_multiply_kept_shares() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5))
    captured = capture(model, make_batch((torch.randn(2, 3),), {}))
    analysis = analyze_graph(captured.graph, 2)
    (ids,) = [g.blocks[0] for g in analysis.groups]
    half = np.concatenate([ids, np.zeros(4, dtype=ids.dtype)])
    costs = CostModel(
        captured.graph,
        analysis,
        [Cost("a", 3.0, (ids,)), Cost("b", 1.0, (half, ids)), Cost("c", 2.0, ())],
    )
    assert costs.fractions(np.array([2]))["latency"] == pytest.approx(
        (3 * 0.5 + 0.75 * 0.5 + 2) / 6
    )
    assert "latency" not in CostModel(captured.graph, analysis).fractions(costs.full)


@pytest.mark.usefixtures("clock")
def test_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "latency.md"
    (code,) = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    exec(compile(code, page.name, "exec"), {})
    assert "of the original's time, eager, batch 8" in capsys.readouterr().out


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
