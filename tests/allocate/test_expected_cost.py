"""What a call is expected to take: how work grows with what is asked, and what reports say."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node

import fxprune
from fxprune.allocate import expected_cost, expected_work
from fxprune.allocate.expected_cost import expect_cost
from fxprune.fit import build, row_sums
from fxprune.fit.execution import Execution
from fxprune.forecast import ExpectedCost
from fxprune.linalg import regression_sums
from fxprune.linalg.tree_sum import Terms
from fxprune.plans.methods import METHODS
from fxprune.progress import Journal
from fxprune.timing import speeds
from fxprune.timing.speeds import Speeds, Work
from tests.nets import images, session_of, tiny
from tests.rotations import examples, separate

ONE = Speeds(1.0, 0.0, 0.0, 0.0, 0.0)
"""Only examples that go through the whole model take time."""
ROWS = Speeds(1e-9, 1.0, 0.0, 0.0, 0.0)
SOLVES = Speeds(1e-9, 0.0, 1.0, 0.0, 0.0)


def expected(
    monkeypatch: pytest.MonkeyPatch,
    speeds: Speeds,
    method: str,
    examples: int = 200,
    **asked: object,
) -> dict[str, float]:
    """Seconds by station on a machine of such speeds."""
    monkeypatch.setattr(expected_cost, "measure_speeds", lambda *_: speeds)
    session = session_of(tiny(), images(examples)).using(method=METHODS[method], **asked)
    return dict(expect_cost(session, {"flops": 0.5}).seconds)


def test_work_adds_up_and_takes_what_each_kind_takes() -> None:
    work = Work(1, 2, 3, 4, 5) + Work(examples=1).times(3)
    assert work == Work(4, 2, 3, 4, 5)
    assert Speeds(1, 10, 100, 1000, 10000).seconds(work) == 4 + 20 + 300 + 4000 + 50000
    assert [f.name for f in fields(Work)] == ["examples", "products", "solves", "moved", "calls"]


def test_examples_go_through_the_model_once_to_observe_and_once_to_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = expected(monkeypatch, ONE, "uniform")
    # 160 of 200 are fitted on, 64 of them differentiated.
    assert found["calibrate"] == 160 + 4 * 64
    assert 0.5 * 160 < found["fit"] < 160
    assert found["allocate" if "allocate" in found else "profile"] == 0
    assert 40 < found["verify"] < 2 * (40 + 64)
    assert "fit" not in {k for k, v in expected(monkeypatch, ONE, "magnitude").items() if v}


def test_every_trial_costs_as_much_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = [expected(monkeypatch, ROWS, "channels", effort=effort)["fit"] for effort in (1, 2, 4)]
    assert fits[0] < fits[1] < fits[2]
    assert fits[2] - fits[1] == pytest.approx((fits[1] - fits[0]) * 2 / 2.5)
    assert fits[0] == expected(monkeypatch, ROWS, "uniform")["fit"]


def test_what_is_searched_twice_is_foreseen_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expected_cost, "measure_speeds", lambda *_: ROWS)
    session = session_of(separate().eval(), examples(separate, 200).float())
    fits = []
    for rotation in (False, True):
        method = replace(METHODS["channels"], rotation=rotation)
        fits.append(expect_cost(session.using(method=method), {"flops": 0.5}).seconds["fit"])
    last = expect_cost(session.using(method=METHODS["uniform"]), {"flops": 0.5}).seconds["fit"]
    assert fits[1] - last == pytest.approx(2 * (fits[0] - last))


def test_solves_follow_from_sizes_and_not_from_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (expected(monkeypatch, SOLVES, "auto", n) for n in (400, 800))
    for station in ("profile", "allocate"):
        assert few[station] == pytest.approx(many[station], rel=1e-3)
    assert "allocate" not in expected(monkeypatch, SOLVES, "channels", 400)


def test_the_report_says_what_was_expected_and_what_it_took() -> None:
    small = fxprune.compress(tiny(), images(200), flops=0.5, progress=False)
    report = fxprune.report(small)
    assert report.passes is not None
    assert min(report.passes) > 0
    assert " expected)" in report.summary()
    # Seconds are told where what does not depend on the examples takes more than six passes.
    quick = replace(report, seconds={"capture": 7.0, "fit": 1.0}, passes=(9.0, 8.0))
    assert "; 9.0 s expected)" in quick.summary()
    assert "forward passes" not in quick.summary()
    large = replace(report, seconds={"capture": 1.0, "fit": 7.0}, passes=(7.0, 8.0))
    assert "8.0 s (fit 7.0), 8.0 forward passes (7.0 expected)" in large.summary()
    assert json.loads(report.to_json())["passes"] == list(report.passes)


class Done:
    """What a call really did since it said what it would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.nodes, self.products, self.trials = 0, 0.0, 0
        run, call, sums = Interpreter.run_node, Execution._call, regression_sums._products
        tried, expect, sums_again = build.try_plan, Journal.expect, row_sums._sums

        def ran(interpreter: Interpreter, node: Node) -> object:
            self.nodes += node.op == "call_function"
            return run(interpreter, node)

        def called(own: Execution, *given: Any) -> object:
            self.nodes += 1
            return call(own, *given)

        def summed(pieces: Any, count: int) -> Terms:
            features, outputs = (part.shape[2] for part in pieces[0])
            self.products += count * features * (features + 2 * outputs)
            return sums(pieces, count)

        def summed_again(features: Tensor, aims: Tensor) -> Terms:
            # What the last fit gives is as much again.
            self.products += 2 * 2 * features.numel() * aims.shape[2]
            return sums_again(features, aims)

        def trial(*given: Any) -> float:
            self.trials += 1
            return tried(*given)

        def said(journal: Journal, cost: ExpectedCost) -> None:
            self.nodes = 0
            expect(journal, cost)

        monkeypatch.setattr(Interpreter, "run_node", ran)
        monkeypatch.setattr(Execution, "_call", called)
        monkeypatch.setattr(regression_sums, "_products", summed)
        monkeypatch.setattr(row_sums, "_sums", summed_again)
        monkeypatch.setattr("fxprune.allocate.trials.try_plan", trial)
        monkeypatch.setattr(Journal, "expect", said)


@pytest.mark.parametrize("batch", [10, 64])
def test_what_is_foreseen_is_done(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    done, loader = Done(monkeypatch), list(images(400).split(batch))
    fxprune.compress(tiny(), loader, flops=0.5, method="channels", progress=False)

    def nothing(*_: object, **asked: object) -> Work:
        return Work()

    # Products in fits, and nodes that run, are what is counted.
    for name in ("moments", "selection", "ranks", "rewrite", "folds"):
        monkeypatch.setattr(expected_cost, f"{name}_work", nothing)
    for name in ("CALLS_A_FIT", "CALLS_A_READING", "CALLS_A_SUM"):
        monkeypatch.setattr(expected_work, name, 0)
    monkeypatch.setattr(expected_work, "CALLS_A_NODE", 1)
    monkeypatch.setattr(expected_cost, "BACKWARD", 1.0)
    session = session_of(tiny(), loader).using(method=METHODS["channels"])
    # How many are tried is not known beforehand.
    monkeypatch.setattr(expected_cost, "FURTHER", done.trials - session.options.effort)
    foreseen = Work()
    for part in expected_cost._parts(session, {"flops": 0.5}):
        foreseen += part.work
    assert 1 / 1.5 < foreseen.calls / done.nodes < 1.5
    assert 1 / 1.5 < foreseen.products / done.products < 1.5


def test_nothing_is_foreseen_where_sizes_are_searched() -> None:
    small = fxprune.compress(tiny(), images(1200), agreement=0.5, decision="argmax", progress=False)
    assert fxprune.report(small).passes is None


def test_a_layer_without_labels_has_no_positions() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.second(self.first(x).relu())

    session = session_of(Odd().eval(), images(64).flatten(1)[:, :8])
    session.analysis.values.pop("linear")
    assert expect_cost(session, {"flops": 0.5}).passes > 0


def test_every_size_has_its_stages_and_shares_what_was_observed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(expected_cost, "measure_speeds", lambda *_: ONE)
    session = session_of(tiny(), images(200)).using(method=METHODS["channels"])
    stages = expect_cost(session, {"flops": 0.5}, {"flops": 0.4}).stages
    assert [stage.end for stage in stages] == 2 * ["allocation", "agreement", "hand over"]
    assert {"calibrate", "profile", "fit"} <= set(stages[0].runs)
    assert {"fit"} == set(stages[3].runs)
    assert len(stages[1].runs["fit"]) == 1
    # As many trials as are foreseen, the last of them only in part.
    *whole, last = stages[0].runs["fit"]
    assert len(whole) == session.options.effort
    assert last == pytest.approx(expected_cost.FURTHER * whole[0])


def test_of_a_sequence_one_size_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expected_cost, "measure_speeds", lambda *_: ONE)
    session = session_of(tiny(), images(200)).using(method=METHODS["uniform"])
    cost = expected_cost.expect_sequence(session, {"flops": 0.9}, {"flops": 0.8})
    ends = [stage.end for stage in cost.stages]
    assert ends == [*2 * ["allocation", "agreement"], "hand over"]
    assert cost.most


def test_a_plan_is_built_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expected_cost, "measure_speeds", lambda *_: ONE)
    session = session_of(tiny(), images(200)).using(method=METHODS["auto"])
    build, hand_over = expected_cost.expect_build(session, {"flops": 0.5}).stages
    assert (build.end, hand_over.end) == ("verify", "hand over")
    assert build.seconds["calibrate"] == 160
    assert set(build.runs) == {"calibrate", "fit", "verify"}


@pytest.mark.parametrize("method", ["svd", "magnitude"])
def test_what_observes_nothing_is_not_foreseen_to(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    assert "calibrate" not in expected(monkeypatch, ONE, method)


def test_foreseeing_draws_nothing() -> None:
    session = session_of(tiny(), images(200))
    before = torch.get_rng_state()
    speeds._speeds_of.cache_clear()
    expect_cost(session, {"flops": 0.5})
    assert torch.equal(before, torch.get_rng_state())
