"""A short draw of `python -m benchmarks.operators`, and what it must notice."""

import time

import pytest

from benchmarks.opinfo.isolated import from_json, judge_apart, to_json
from benchmarks.opinfo.outcome import Outcome, Tried, judge
from benchmarks.opinfo.page import page
from benchmarks.opinfo.variants import Entry, entries
from fxprune.rules import pointwise, registry
from fxprune.rules.movement import movement

KNOWN = "abs add addmm cat cumsum expand_as matmul nn.functional.conv1d softmax trapezoid view_as"
PINNED = "linalg.cholesky nn.functional.pdist"
OTHERS = {"bitwise_not": "not applicable", "combinations": "refused", "bernoulli": "not applicable"}
EXPECTED = dict.fromkeys(KNOWN.split(), "known") | dict.fromkeys(PINNED.split(), "pinned") | OTHERS


@pytest.fixture(scope="module", name="database")
def _database() -> dict[str, Entry]:
    return entries()


QUICK = ("softmax", "linalg.cholesky", "bitwise_not", "bernoulli")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in EXPECTED]
)
def test_labels_claim_nothing_false(name: str, database: dict[str, Entry]) -> None:
    outcome = judge(name, database[name], most=2, seed=0)
    assert outcome.verdict == EXPECTED[name], outcome


@pytest.mark.slow
def test_a_rule_that_lets_mixed_channels_go_is_wrong(
    monkeypatch: pytest.MonkeyPatch, database: dict[str, Entry]
) -> None:
    monkeypatch.setitem(registry._RULES, "aten.cumsum", pointwise)
    outcome = judge("cumsum", database["cumsum"], most=6, seed=0)
    assert outcome.verdict == "wrong"
    assert "differs from the masked one" in outcome.text


def test_a_rule_that_the_trial_contradicts_is_caught(
    monkeypatch: pytest.MonkeyPatch, database: dict[str, Entry]
) -> None:
    monkeypatch.setitem(registry._RULES, "aten.add", movement)
    outcome = judge("add", database["add"], most=2, seed=0)
    assert outcome.verdict == "caught"


def test_an_entry_that_hangs_or_dies_is_an_error(
    monkeypatch: pytest.MonkeyPatch, database: dict[str, Entry]
) -> None:
    monkeypatch.setattr("benchmarks.opinfo.isolated.judge", lambda *_: time.sleep(60))
    assert "signal 9" in judge_apart("abs", database["abs"], 1, 0, limit=0.2).text
    monkeypatch.setattr("benchmarks.opinfo.isolated.judge", lambda *_: exit(3))
    assert judge_apart("abs", database["abs"], 1, 0).verdict == "error"


def test_records_and_page_hold_the_outcomes() -> None:
    outcome = Outcome("abs", "pinned", "a | b", (Tried("pinned", "op([2 3*])", "a | b"),))
    assert from_json(to_json(outcome)) == outcome
    text = page([outcome], most=1, masks=2, date="2026-11-26")
    assert "| pinned | 1 |" in text
    assert "| `abs` | pinned | 1 pinned | `op([2 3*])` | a / b |" in text
