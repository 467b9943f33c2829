"""Candidates that are tried ahead, one by each of several ranks."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from fxprune.allocate.problem import Candidate, pose
from fxprune.allocate.search import Search
from fxprune.allocate.trials import Trials
from fxprune.calibrate.recording import Recording
from fxprune.distributed.group import Group
from fxprune.fit.build import try_plan
from fxprune.plans.methods import METHODS
from fxprune.profile.statistics import Statistics
from fxprune.session import Session
from tests.nets import session_of


class Several(Group):
    """So many ranks in one process, which notes how many trials are shared out at once."""

    def __init__(self, size: int):
        super().__init__()
        self.size, self.shared = size, list[int]()

    def share(self, tasks: Sequence[Callable[[], Any]], costs: Sequence[float], what: str) -> Any:
        if what == "trials":
            self.shared.append(len(tasks))
        return [task() for task in tasks]


def session() -> Session:
    """Of a network in which some layers become two."""
    torch.manual_seed(0)
    layers = [nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 5)]
    inputs = torch.randn(400, 6, generator=torch.Generator().manual_seed(0)) @ torch.randn(6, 24)
    return session_of(nn.Sequential(*layers), [inputs], effort=4).using(method=METHODS["auto"])


def search(by_one: Search, ranks: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Search, list[int]]:
    """A search that is through, of what one process observed; how many were tried at once."""
    found, group = Search(by_one.problem, ranked=True), Several(ranks)
    _ = found.problem.session.statistics.alone
    with monkeypatch.context() as patch:
        patch.setattr(Statistics, "group", property(lambda statistics: group))
        found.best()
    return found, group.shared


def shown(found: Search) -> list[tuple[float, object]]:
    return [(error, candidate.key) for error, candidate in found.tried]


@pytest.fixture(scope="module")
def by_one() -> Search:
    """What one process searches."""
    found = Search(pose(session(), {"flops": 0.5}), ranked=True)
    found.best()
    return found


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("excess", [1e-3, 3.0, 1e6])
def test_what_is_tried_ahead_and_not_asked_for_changes_nothing(
    by_one: Search, ranks: int, excess: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, dealt = list[object](), list[Recording]()

    def counted(session: Session, keep_mask: Any, factorings: Any, recording: Recording) -> float:
        tried.append((keep_mask.tobytes(), tuple(factorings.items())))
        dealt.append(recording)
        return try_plan(session, keep_mask, factorings, recording)

    monkeypatch.setattr("fxprune.allocate.trials.try_plan", counted)
    monkeypatch.setattr("fxprune.allocate.search.USUAL_EXCESS", excess)
    found, shared = search(by_one, ranks, monkeypatch)
    assert shown(found) == shown(by_one)
    assert shared
    assert max(shared) <= ranks
    assert len(tried) == len(set(tried)), "nothing is tried twice"
    assert len(tried) == len(found.tried) + len(found._trials._ahead)
    statistics = found.problem.session.statistics
    assert any(own is statistics.alone for own in dealt)


def test_most_of_what_is_tried_ahead_is_asked_for(
    by_one: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = by_one.tried[0]
    monkeypatch.setattr("fxprune.allocate.search.USUAL_EXCESS", first[0] / first[1].predicted)
    found, shared = search(by_one, 2, monkeypatch)
    assert shared[0] == 2
    assert found.tried[1][1].key not in found._trials._ahead


def test_one_that_fails_ahead_fails_where_it_is_asked_for(
    by_one: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, fails = by_one.problem, set[object]()

    def tried(trials: Trials, candidate: Candidate, recording: Recording) -> float:
        if candidate.key in fails:
            raise RuntimeError("no room")
        return 1.0

    monkeypatch.setattr(Trials, "_try", tried)
    monkeypatch.setattr(Statistics, "group", property(lambda statistics: Several(2)))
    (_, first), (_, second) = by_one.tried[:2]
    fails.add(second.key)
    trials = Trials(problem)
    assert trials.measure(first, lambda count: [first, second][:count]) == 1.0
    with pytest.raises(RuntimeError, match="no room"):
        trials.measure(second, lambda count: [second])
    fails.add(first.key)
    with pytest.raises(RuntimeError, match="no room"):
        Trials(problem).measure(first, lambda count: [first, second][:count])


def test_ranks_try_together_what_is_much_work_for_one(
    by_one: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two candidates on eight ranks leave six idle."""
    (_, first), (_, second) = by_one.tried[:2]
    group = Several(8)
    monkeypatch.setattr(Statistics, "group", property(lambda statistics: group))
    monkeypatch.setattr(Trials, "_try", lambda *given: 1.0)
    monkeypatch.setattr("fxprune.allocate.trials.AN_EXCHANGE", 0.0)
    monkeypatch.setattr("fxprune.allocate.trials.A_SOLVE", 0.0)
    Trials(by_one.problem).measure(first, lambda count: [first, second])
    assert not group.shared
    monkeypatch.setattr("fxprune.allocate.trials.AN_EXCHANGE", 1.0)
    Trials(by_one.problem).measure(first, lambda count: [first, second])
    assert group.shared == [2]
