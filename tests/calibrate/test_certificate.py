"""The study of the bound's coverage, in short: it holds where it is promised, and not elsewhere."""

import pytest
import torch

from benchmarks.examination.certificate_page import page
from benchmarks.examination.certifying import KEYED, LOADERS, SHUFFLED, Row, rows, run
from benchmarks.examination.cluster_bounds import Found, compared
from benchmarks.examination.deciders import DECIDERS
from benchmarks.examination.whole_calls import RULES, Call, calls
from benchmarks.examination.whole_calls import run as run_calls
from fxprune.verify.judge import settle


@pytest.mark.parametrize("loader", LOADERS)
def test_the_bound_holds_from_every_loader(loader: str) -> None:
    assert run(Row("argmax", loader, 100, 0.9), runs=15).sound


@pytest.mark.parametrize("rule", DECIDERS)
def test_the_bound_holds_by_every_rule(rule: str) -> None:
    assert run(Row(rule, SHUFFLED, 100, 0.9), runs=15).sound


@pytest.mark.parametrize("rule", DECIDERS)
def test_outputs_differ_and_decide_as_they_are_told(rule: str) -> None:
    decider = DECIDERS[rule]
    x = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    wrong = x[:, 1] < 0.3
    original = decider.original(x)
    fitted = decider.fitted(original, wrong, x)
    judge = settle(decider.decision, [(original, 200)])
    same = torch.stack(judge.decide(original, fitted, 200)).all(0)
    assert torch.equal(same, ~wrong)
    assert not judge.question
    tensors = (original.values(), fitted.values()) if rule == "joint" else ([original], [fitted])
    assert all((a != b).flatten(1).any(1).all() for a, b in zip(*tensors, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_whole_calls_promise_no_more_than_is_true(rule: str) -> None:
    found, truth = run_calls(Call(rule, "flops=0.6"), runs=5)
    assert found.sound
    assert 0.5 < truth < 1


def test_every_row_stands_on_the_page() -> None:
    found = Found(190, 200, 0.123)
    text = page(dict.fromkeys(rows(), found), dict.fromkeys(calls(), (found, 0.9)), {})
    twice = len(DECIDERS)  # the loader that shuffles stands in two tables
    assert text.count("0.123") == len(list(rows())) + len(list(calls())) + twice
    assert "| multilabel | 95.0% (0.123) |" in text


def test_scenes_need_groups() -> None:
    keyed = Row("sign", KEYED, 400, 0.9, 20, 0.5, grouped=True)
    assert run(keyed, runs=15).held == 15
    scenes = "argmax", SHUFFLED, 400, 0.9, 20, 0.5
    assert run(Row(*scenes, grouped=True), runs=15).held == 15
    assert run(Row(*scenes), runs=5).held == 0


def test_bounds_that_estimate_a_design_effect_fail() -> None:
    found = compared(20, 50, 0.5, runs=200)
    assert {name for name, bound in found.items() if bound.sound} == {"over groups"}
