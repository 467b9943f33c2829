"""Candidates that are tried, and what is predicted of them."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune import BudgetError
from fxprune.allocate.allocation import choose_candidate
from fxprune.allocate.balanced import balanced_widths
from fxprune.allocate.prediction import GATHERED, RANKS_FACTOR, RANKS_HANDICAP, USUAL, Tried
from fxprune.allocate.problem import pose
from fxprune.allocate.ranks import choose_ranks
from fxprune.allocate.search import GAIN, SLACKS, Search, position
from fxprune.plans.factoring import Factoring
from fxprune.plans.methods import METHODS
from fxprune.session import Session
from tests.nets import Net, loader, session_of, tiny


def searched(session: Session, monkeypatch: pytest.MonkeyPatch, method: str = "channels") -> Search:
    """The search that an allocation went through."""
    searches: list[Search] = []
    best = Search.best

    def recorded(search: Search) -> Tried:
        searches.append(search)
        return best(search)

    monkeypatch.setattr(Search, "best", recorded)
    choose_candidate(pose(session.using(method=METHODS[method]), {"flops": 0.5}))
    return searches[0]


def test_the_least_effort_tries_nothing_and_takes_uniform_widths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = session_of(tiny(), loader(), effort=1)
    search = searched(session, monkeypatch)
    _, uniform = choose_candidate(pose(session.using(method=METHODS["uniform"]), {"flops": 0.5}))
    assert search.best()[1].widths.tolist() == uniform.widths.tolist()
    assert not search.tried


def test_more_effort_tries_more_plans_and_never_ends_with_a_worse_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Search, "_deserves_a_trial", lambda self, candidate: False)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(12, 40),
        nn.ReLU(),
        nn.Linear(40, 40),
        nn.ReLU(),
        nn.Linear(40, 40),
        nn.ReLU(),
        nn.Linear(40, 5),
    )
    batches = list(torch.randn(400, 12, generator=torch.Generator().manual_seed(0)).split(100))
    few, many = (searched(session_of(model, batches, effort=e), monkeypatch) for e in (2, 9))
    assert len(few.tried) == 2
    assert len({o.key for _, o in many.tried}) == len(many.tried) == 9
    assert [o.key for _, o in many.tried[:2]] == [o.key for _, o in few.tried]
    assert min(e for e, _ in many.tried) <= min(e for e, _ in few.tried) <= few.tried[0][0]


@pytest.mark.parametrize(
    ("errors", "predicted", "tries"),
    [
        ((1.0, 0.5, 0.4), 0.41, 2),
        ((1.0, 0.5, 0.4), 0.39, 3),
        ((1.0, 1.5, 0.5), 2.0, 3),
        ((1.0, 1.5, 2.0), 0.1, 3),
    ],
)
def test_one_more_plan_is_tried_where_these_disappoint(
    errors: tuple[float, ...], predicted: float, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = iter(errors)
    monkeypatch.setattr("fxprune.allocate.search.trial_error", lambda *plan: next(shown))
    monkeypatch.setattr(Search, "predicted_error", lambda self, candidate: predicted)
    search = searched(session_of(tiny(), loader(), effort=2), monkeypatch)
    assert [error for error, _ in search.tried] == list(errors[:tries])
    assert search._leader()[0] == min(errors[:tries])


def test_ranks_are_taken_only_where_they_are_clearly_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = torch.randn(200, 6) @ torch.randn(6, 60)
    session = session_of(
        nn.Sequential(nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 5)), [inputs], effort=4
    )
    search = searched(session, monkeypatch, "auto")
    split = next((e, o) for e, o in search.tried if o.ranks)
    whole = min((e, o.key) for e, o in search.tried if not o.ranks)
    for error, wins in ((GAIN * whole[0] * 0.99, True), (GAIN * whole[0] * 1.01, False)):
        search.tried = [(e, o) for e, o in search.tried if not o.ranks] + [(error, split[1])]
        assert bool(search._leader()[1].ranks) is wins


def test_ranks_are_chosen_only_where_the_widths_alone_promise_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 5)]
    session = session_of(nn.Sequential(*layers), [torch.randn(400, 6) @ torch.randn(6, 24)])
    session = session.using(method=METHODS["auto"])
    search = Search(pose(session, {"flops": 0.5}), ranked=True)
    every = list(search.candidates())
    splits = [candidate for candidate in every if candidate.ranks]
    assert len(splits) > 1
    chosen: list[object] = []

    def counted(*asked: Any) -> Any:
        chosen.append(asked)
        return choose_ranks(*asked)

    monkeypatch.setattr("fxprune.allocate.search.choose_ranks", counted)
    search.tried = [(every[0].predicted, every[0])]
    proposals = search._proposals()
    wanted = sorted(every, key=search.predicted_error)
    assert next(proposals).key == wanted[0].key
    assert len(chosen) < len(splits)
    assert [next(proposals).key for _ in wanted[1:]] == [c.key for c in wanted[1:]]
    assert len(chosen) == len(splits)


@pytest.mark.parametrize(("promised", "tries"), [(1.0, 0), (0.9, 2)])
def test_a_search_goes_on_only_with_what_promises_less_than_is_known(
    promised: float, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fxprune.allocate.search.trial_error", lambda *plan: 1.0)
    monkeypatch.setattr(Search, "predicted_error", lambda self, candidate: promised)
    monkeypatch.setattr(Search, "_deserves_a_trial", lambda self, candidate: False)
    problem = pose(session_of(tiny(), loader(), effort=2), {"flops": 0.5})
    first = Search(problem, ranked=False)
    known = first.best()
    further = Search(problem, ranked=False, before=first)
    assert further.best() is known or tries
    assert len(further.tried) == len(first.tried) + tries
    assert len({candidate.key for _, candidate in further.tried}) == len(further.tried)


def test_ranks_are_found_once_where_that_costs_more_than_the_model() -> None:
    layers = nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 4)
    for examples, slacks in ((100, 1), (4000, len(SLACKS))):
        session = session_of(nn.Sequential(*layers), [torch.randn(examples, 32)], effort=2)
        search = Search(pose(session, {"flops": 0.5}), ranked=True)
        assert len(search._slacks()) == slacks


def test_predictions_are_learned_from_the_candidates_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    search = searched(session_of(tiny(), loader(), effort=2), monkeypatch)
    first, uniform = search.tried[0]
    blend = next(candidate for candidate in search.candidates() if candidate.mix > 0)
    second = 2 * first * blend.predicted / uniform.predicted
    assert uniform.mix == 0
    search.tried = [(first, uniform), (second, blend)]
    for error, option in search.tried:
        assert search.predicted_error(option) == pytest.approx(error)
    between = search.predicted_error(replace(uniform, mix=blend.mix / 2))
    assert between == pytest.approx(
        uniform.predicted * math.sqrt(first / uniform.predicted * second / blend.predicted)
    )
    # Beyond what was tried errors compound alike, but for widths that gather them in few layers.
    search.tried = [(first, uniform)]
    for mix, factor in ((USUAL, 1.0), (1.0, GATHERED)):
        wanted = factor * blend.predicted * first / uniform.predicted
        assert search.predicted_error(replace(blend, mix=mix)) == pytest.approx(wanted)
    ranks = {"layer.weight": Factoring(1)}
    split = replace(uniform, predicted=0.0, ranks=ranks, rank_errors={"layer.weight": 2.0})
    assert search.predicted_error(split) == pytest.approx(RANKS_HANDICAP * RANKS_FACTOR * 2.0)
    for shown, factor in ((0.5, RANKS_FACTOR), (9.0, 4.5)):
        search.tried = [(first, uniform), (second, blend), (shown, split)]
        assert search.predicted_error(split) == pytest.approx(RANKS_HANDICAP * factor * 2.0)


def test_every_baselines_widths_are_among_the_candidates() -> None:
    session = session_of(tiny(), loader())
    limits = {"flops": 0.5}
    found = {c.widths.tobytes() for c in Search(pose(session, limits), ranked=False).candidates()}
    for method in ("uniform", "paper"):
        baseline = session.using(method=METHODS[method])
        problem = pose(session, limits)
        profiles = pose(baseline, limits).profiles
        widths = choose_candidate(replace(problem, session=baseline, profiles=profiles))[1].widths
        assert widths.tobytes() in found
    problem = pose(session, limits)
    balanced = balanced_widths(problem.profiles, problem.costs, problem.valid, limits)
    assert problem.scale(balanced / problem.valid.full).tobytes() in found


def test_where_widths_lie_between_uniform_and_balanced_ones() -> None:
    uniform, balanced = np.array([8.0, 8.0, 8.0]), np.array([2.0, 16.0, 8.0])
    assert position(uniform, uniform, balanced) == 0
    assert position(balanced, uniform, balanced) == 1
    between = np.sqrt(uniform * balanced)
    assert position(between, uniform, balanced) == pytest.approx(0.5)
    assert position(np.array([16.0, 2.0, 8.0]), uniform, balanced) == 0
    assert position(balanced, uniform, uniform) == 0


def test_a_model_that_is_flat_everywhere_is_still_compressed() -> None:
    class Signs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.sign(self.second(self.first(x).relu())) * 1e3

    small = fxprune.compress(Signs(), torch.randn(100, 8), flops=0.5, progress=False)
    before, after = fxprune.report(small).flops
    assert after <= 0.5 * before


@pytest.mark.parametrize("effort", [0, -1, 1.5, True, "most"])
def test_effort_is_a_number_of_plans(effort: object) -> None:
    with pytest.raises(BudgetError, match="effort="):
        fxprune.compress(tiny(), loader(), flops=0.5, effort=effort, progress=False)  # type: ignore[arg-type]


def test_streams_are_narrowed_after_and_beside_plans_that_leave_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        x = s.embed(x)
        x = x + s.down(torch.relu(s.up(s.norm(x))))
        logits: Tensor = s.head(s.norm(x))
        return logits

    torch.manual_seed(0)
    layers = {"embed": nn.Linear(8, 16), "norm": nn.LayerNorm(16), "head": nn.Linear(16, 4)}
    net = Net(forward, **layers, up=nn.Linear(16, 24), down=nn.Linear(24, 16))
    session = session_of(net.eval(), torch.randn(96, 8), effort=2)
    assert session.analysis.normalized == {"embed"}
    streams = [group.name == "embed" for group in session.analysis.groups]
    searches: list[Search] = []
    best = Search.best

    def recorded(search: Search) -> Tried:
        searches.append(search)
        return best(search)

    monkeypatch.setattr(Search, "best", recorded)
    problem = pose(session.using(method=METHODS["channels"]), {"flops": 0.4})
    _, chosen = choose_candidate(problem)
    left, narrowed, *_ = (
        [int(candidate.widths[streams].item()) for _, candidate in search.tried]
        for search in searches
    )
    assert set(left) == {16}
    assert min(narrowed) < 16
    errors = [min(error for error, _ in search.tried) for search in searches]
    leader = searches[int(np.argmin(errors))]._leader()[1]
    assert chosen.key == leader.key
    # Other methods narrow streams only where a budget cannot be kept without.
    uniform = pose(session.using(method=METHODS["uniform"]), {"flops": 0.6})
    assert choose_candidate(uniform)[1].widths[streams].tolist() == [16]
    assert choose_candidate(uniform.within(flops=0.2))[1].widths[streams].item() < 16
