"""A short draw of `python -m benchmarks.abuse`, and the judge that it trusts."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.abuse import draw, every, known
from benchmarks.abuses import judge as judging
from benchmarks.abuses.judge import Abuse, judge
from fxprune.errors import BudgetError, FxpruneError

COUNT = 60


@pytest.mark.slow
def test_bad_input_works_or_is_refused_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = draw(every(tmp_path), COUNT, seed=0)
    assert len(chosen) == COUNT
    found = [judge(abuse) for abuse in chosen]
    wrong = [o for o in found if o.verdict == "violation" and not known(o)]
    assert not wrong, "\n".join(f"{o.abuse.name}: {o.text}" for o in wrong)


def test_there_are_hundreds_of_every_function_and_kind(tmp_path: Path) -> None:
    names = [abuse.name for abuse in every(tmp_path)]
    assert len(names) > 5000
    for start in ("compress(", "apply(", "load(", "fxprune compress", "fxprune bench"):
        assert sum(name.startswith(start) for name in names) > 100


def told(run: Callable[[], Any], *watched: Any, python: bool = False) -> str:
    """Verdict and text on a made-up abuse."""
    outcome = judge(Abuse("made up", "made up", lambda: (run, list(watched)), python))
    return f"{outcome.verdict}: {outcome.text}"


def raising(error: BaseException) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


def test_the_judge_tells_refusals_from_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(lambda: None) == "works: "
    refusal = FxpruneError("what, where and why")
    assert told(raising(refusal)) == "refused: FxpruneError: what, where and why"
    assert "says nothing" in told(raising(FxpruneError("no")))
    assert told(raising(KeyError("x"))).startswith("violation: KeyError")
    surplus = TypeError("f() got an unexpected keyword argument 'odd'")
    assert told(raising(surplus)).startswith("violation")
    assert told(raising(surplus), python=True).startswith("refused")
    monkeypatch.setattr(judging, "PATIENCE", -1)
    assert "refused after" in told(raising(refusal))
    assert told(raising(BudgetError("flops=0.1 cannot be reached"))).startswith("refused")


def test_the_judge_stops_what_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "LIMIT", 1)
    assert told(lambda: time.sleep(20)) == "violation: stopped after 1 s"


def test_the_judge_sees_what_changed() -> None:
    net = nn.Linear(2, 2)
    changes: dict[str, Callable[[], Any]] = {
        "random state": lambda: torch.rand(1),
        "Python's random state": random.random,
        "default dtype": lambda: torch.set_default_dtype(torch.float64),
        "gradient mode": lambda: torch.set_grad_enabled(False),
        "the model": net.eval,
    }
    for what, change in changes.items():
        text = told(change, net)
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        assert text == f"violation: {what} changed (works)"
    with torch.no_grad():
        assert "the model changed" in told(lambda: net.weight.add_(1), net)
    assert "the model changed" in told(lambda: net.requires_grad_(False), net)
    hook: Callable[..., None] = lambda *args: None  # noqa: E731
    assert "the model changed" in told(lambda: net.register_forward_hook(hook), net)
