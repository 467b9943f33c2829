"""Latency as a budget, end to end, on a clock that the tests set."""

import re
from pathlib import Path

import pytest

import fxprune
from fxprune.capture.batch import make_batch
from fxprune.errors import BudgetError
from fxprune.timing.latency_probe import LatencyProbe
from fxprune.timing.workload import Workload
from tests.nets import images, tiny
from tests.timing.test_latency_model import wide


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


@pytest.mark.slow
@pytest.mark.usefixtures("clock")
def test_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "latency.md"
    (code,) = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    exec(compile(code, page.name, "exec"), {})
    assert "of the original's time, eager, batch 8" in capsys.readouterr().out
