"""What callers are told of their data and results: at their own line, rightly the first time, and
what to do where few decisions are kept.
"""

import math
import re
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.calibrate.recording import VALIDATION
from fxprune.calibrate.split import draw_split, examples_needed
from fxprune.errors import BudgetError, CalibrationWarning
from fxprune.linalg.clopper_pearson import lower_bound
from fxprune.plans.budget import Budget
from tests.cli.test_app import call


def net(width: int = 24) -> nn.Module:
    """Three linear layers on (N, 8), random: thin, so that half of it loses decisions."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()),
            nn.Linear(width, 4),
        )


def rows(count: int = 200) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(0))


def loader() -> list[Tensor]:
    """For the command line."""
    return list(rows().split(50))


def told(run: Callable[[], Any]) -> tuple[Any, list[warnings.WarningMessage]]:
    """What a call gives, and our warnings on the way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = run()
    return result, [w for w in caught if issubclass(w.category, CalibrationWarning)]


def kept_few(**options: Any) -> nn.Module:
    asked: dict[str, Any] = {
        "flops": 0.4,
        "method": "magnitude",
        "decision": "argmax",
        "progress": False,
    }
    return fxprune.compress(net(), loader(), **asked | options)


def test_few_kept_decisions_are_said_with_what_to_do() -> None:
    small, (warned,) = told(kept_few)
    report = fxprune.report(small)
    assert report.agreement is not None
    assert report.agreement.rate < 0.9
    text = str(warned.message)
    assert text.startswith(f"Only {report.agreement.rate:.1%} of 40 held-out calibration examples")
    for offer in (
        *("agreement=", "more than flops=0.4", 'method="auto"', "fxprune.recover"),
        "200 calibration examples",
    ):
        assert offer in text
    assert report.advice == text
    assert text in " ".join(str(report).split())
    assert fxprune.Report.from_json(report.to_json()) == report


def test_factorizing_and_applying_advise_what_they_take() -> None:
    _, (warned,) = told(
        lambda: fxprune.factorize(
            net(), loader(), params=0.4, method="svd", decision="argmax", progress=False
        )
    )
    assert "more than params=0.4" in str(warned.message)
    assert "agreement=," not in str(warned.message)
    plan = fxprune.plan_of(told(kept_few)[0])
    _, (warned,) = told(
        lambda: fxprune.apply(net(), plan, loader(), decision="argmax", progress=False)
    )
    assert "plan a larger budget" in str(warned.message)


def test_who_does_not_say_what_a_decision_is_is_told_so_first() -> None:
    _, (asked, few) = told(lambda: kept_few(decision=None))
    assert "leave open what it decides" in str(asked.message)
    assert "To keep more, say when two outputs are the same decision (decision=)" in str(
        few.message
    )


def test_nothing_is_advised_where_nothing_is_wrong() -> None:
    assert not told(lambda: kept_few(flops=1.0))[1]
    small, warned = told(lambda: kept_few(flops=None, agreement=0.5))
    assert not warned
    assert fxprune.report(small).advice == ""


def test_parts_and_sweeps_do_not_warn() -> None:
    whole = nn.Sequential(net(), nn.Tanh())
    asked: dict[str, Any] = {"flops": 0.4, "method": "magnitude", "progress": False}
    small, warned = told(lambda: fxprune.compress(whole, loader(), targets=["0"], **asked))
    assert not warned
    assert fxprune.report(small.get_submodule("0")).advice == ""
    curve, warned = told(
        lambda: fxprune.sweep(
            net(), loader(), budgets=[0.4], method="magnitude", decision="argmax", progress=False
        )
    )
    assert not warned
    assert "Only" in fxprune.report(curve[0.4]).advice


@cache
def _thin() -> tuple[nn.Module, Tensor]:
    return net(40), rows(20)


@cache
def _few() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kept_few()


def frames() -> nn.Module:
    x = rows(20).repeat_interleave(10, 0) + 0.01 * torch.randn(200, 8)
    return fxprune.compress(net(), x, flops=1.0, decision="argmax", progress=False)


@pytest.mark.parametrize(
    "run",
    [
        kept_few,
        lambda: fxprune.compress(*_thin(), flops=0.9, method="uniform", progress=False),
        lambda: fxprune.plan(*_thin(), flops=0.9, method="channels", progress=False),
        lambda: fxprune.sweep(*_thin(), budgets=[0.9], method="uniform", progress=False),
        lambda: fxprune.factorize(*_thin(), params=0.8, progress=False),
        lambda: fxprune.compress(
            nn.Sequential(net(40)), rows(20), targets=["0"], flops=0.9, progress=False
        ),
        lambda: kept_few(decision=None),
        frames,
        lambda: fxprune.apply(net(), fxprune.plan_of(_few()), rows(), progress=False),
        lambda: fxprune.recover(_few(), net(), rows(), steps=1, decision="argmax", progress=False),
    ],
    ids=[
        *("few", "thin", "plan", "sweep", "factorize", "targets", "open", "near duplicates"),
        *("apply", "recover"),
    ],
)
def test_warnings_point_at_the_callers_line(run: Callable[[], Any]) -> None:
    _, warned = told(run)
    assert warned
    assert {w.filename for w in warned} == {__file__}


@pytest.mark.parametrize("agreement", [None, 0.8])
def test_the_number_of_examples_asked_for_is_enough(agreement: float | None) -> None:
    def run(count: int) -> list[str]:
        options: dict[str, Any] = {"method": "uniform", "decision": "argmax", "progress": False}
        options |= {"flops": 0.9} if agreement is None else {"agreement": agreement}
        _, warned = told(lambda: fxprune.compress(net(64), rows(count), **options))
        return [str(w.message) for w in warned if "observations" in str(w.message)]

    (text,) = run(30)
    asked = re.search(r"at least (\d+) examples", text)
    assert asked is not None
    assert run(int(asked[1]) - 1)
    assert not run(int(asked[1]))


def test_one_number_of_examples_certifies_what_was_measured() -> None:
    """If the rate stays: what is asked for is enough, and not many times too much."""
    for goal in (0.9, 0.86):
        with pytest.raises(BudgetError, match="certify it if that rate stays") as refused:
            kept_few(flops=0.7, method="uniform", agreement=goal)
        text = str(refused.value)
        rate = re.search(r"agrees on ([\d.]+)% of (\d+) held-out", text)
        number = re.search(r"([\d,]+) calibration examples certify it", text)
        assert rate is not None
        assert number is not None
        needed = int(number[1].replace(",", ""))
        assert needed > 200
        for share, enough in ((1.0, True), (0.7, False)):
            held = Budget(agreement=goal).held_out(int(share * needed))
            agreeing = math.floor(float(rate[1]) / 100 * held + 1e-3)
            assert (lower_bound(agreeing, held) >= goal) == enough
    with pytest.raises(BudgetError, match="no number of examples"):
        kept_few(flops=0.2, agreement=0.97)


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("budget", [Budget(flops=0.5), Budget(agreement=0.9)], ids=str)
def test_examples_needed_are_the_fewest(each: int, budget: Budget) -> None:
    def left(groups: int) -> int:
        numbers = np.arange(groups).repeat(each)
        try:
            split = draw_split(numbers, budget, seed=0)
        except BudgetError:
            return 0
        return split.fitting - int(split.part(VALIDATION).sum())

    for wanted in (1, 40, 199, 1000, 6000):
        needed = examples_needed(wanted, np.arange(50).repeat(each), budget)
        assert left(needed // each) >= wanted
        assert left(needed // each - 2) < wanted + 2 * each


def test_the_command_line_warns_in_a_line() -> None:
    words = "--data tests.test_advice:loader --flops 0.4 --method magnitude --decision argmax"
    result = call("compress", "tests.test_advice:net", *words.split(), "--json")
    assert result.exit_code == 0
    line, last = result.stderr.splitlines()
    assert last.startswith("Next: "), "what to type stands at the end"
    assert line.startswith("fxprune: warning: Only ")
    assert fxprune.Report.from_json(result.stdout).advice in line
