"""What the reduced model returns on the validation split follows from the fit in lockstep."""

import gc
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxprune.calibrate.recording import VALIDATION
from fxprune.calibrate.split import TRIAL
from fxprune.fit import build as building
from fxprune.fit.build import try_plan
from fxprune.fit.execution import Execution
from fxprune.fit.lockstep import fit_in_lockstep
from fxprune.label.keep import keep_all, keep_first
from fxprune.plans.factoring import Factoring
from fxprune.session import Session
from fxprune.verify.agreement import validation_error
from tests.nets import images, session_of, tiny


class Several(nn.Module):
    """Returns what is read on, what is not, an input, a constant and nothing, in a nest."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> dict[str, Any]:
        hidden = torch.relu(self.first(x))
        other = torch.tanh(self.second(hidden))
        scores = self.third(hidden + other)
        constant = self.scale + 1
        return {
            "hidden": hidden.mean(1, keepdim=True),
            "scores": (scores, scores * constant),
            "given": x,
            "constant": constant,
            "nothing": None,
        }


class Early(nn.Module):
    """Returns early what later layers read, whole: it stays until the end."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 6))
        self.head = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)
        return features, self.head(features)


def vectors(examples: int) -> Tensor:
    return torch.randn(examples, 8, generator=torch.Generator().manual_seed(0))


def halved(session: Session) -> np.ndarray:
    return keep_first(session.analysis, [g.width // 2 for g in session.analysis.groups])


def both(
    session: Session, mask: np.ndarray, ranks: dict[str, Factoring], monkeypatch: pytest.MonkeyPatch
) -> tuple[float, float]:
    """The error that a trial tells, and that of the graph it fitted, run anew."""
    fitted, fit = list[GraphModule](), fit_in_lockstep

    def seen(reduction: Any, *given: Any) -> Any:
        fitted.append(reduction.reduced)
        return fit(reduction, *given)

    recording = session.statistics.observed.recording
    gc.collect()  # of what was observed, some goes only now
    held = recording.store._held
    monkeypatch.setattr(building, "fit_in_lockstep", seen)
    told = try_plan(session, mask, ranks, recording)
    assert recording.store._held == held
    return told, validation_error(recording, fitted[0])


@pytest.mark.parametrize("make", [Several, Early])
def test_every_output_is_what_the_fitted_graph_returns(
    make: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    session = session_of(make().eval(), list(vectors(200).split(32)))
    told, anew = both(session, halved(session), {}, monkeypatch)
    assert told > 1e-6
    assert told == pytest.approx(anew, rel=1e-6)


def test_of_images_in_batches_that_are_not_full(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_of(tiny(), list(images(150).split(32)))
    told, anew = both(session, halved(session), {}, monkeypatch)
    assert told == pytest.approx(anew, rel=1e-6)
    assert told > 1e-6


def test_of_a_layer_whose_rank_is_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    session = session_of(Early().eval(), list(vectors(200).split(32)))
    mask, ranks = keep_all(session.analysis), {"head.0.weight": Factoring(2)}
    told, anew = both(session, mask, ranks, monkeypatch)
    assert told == pytest.approx(anew, rel=1e-6)
    assert told > 1e-6


def test_where_nothing_changes_there_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_of(tiny(), list(images(96).split(32)))
    assert both(session, keep_all(session.analysis), {}, monkeypatch) == (0.0, 0.0)


def test_no_call_runs_twice_and_what_follows_the_last_fit_on_the_validation_split_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session, ran = session_of(tiny(), list(images(96).split(32))), list[str]()
    recording, call = session.statistics.observed.recording, Execution._call

    def counted(own: Execution, name: str, *given: Any) -> Any:
        ran.append(name)
        return call(own, name, *given)

    monkeypatch.setattr(Execution, "_call", counted)
    try_plan(session, halved(session), {}, recording)
    chunks = [c for c in recording.chunks if c.part in session.split.tried_on]
    judged = [c for c in chunks if c.outputs]
    calls = [n.name for n in session.graph.graph.nodes if n.op == "call_function"]
    assert ran.count(calls[0]) == len(chunks)
    assert ran.count(calls[-1]) == len(judged) < len(chunks)


@pytest.mark.parametrize("examples", [200, 16])
def test_ridges_are_chosen_on_every_second_chunk_of_the_validation_split(
    examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, looked = session_of(tiny(), list(images(examples).split(32))), dict[str, set[int]]()
    recording, values = session.statistics.observed.recording, Execution.values

    def seen(own: Execution, name: str) -> Any:
        for chunk, value in values(own, name):
            looked.setdefault(chunk.part, set()).add(chunk.first)
            yield chunk, value

    monkeypatch.setattr(Execution, "values", seen)
    try_plan(session, halved(session), {}, recording)
    judging = sorted(chunk.first for chunk in recording.chunks if chunk.part == VALIDATION)
    fitting = {chunk.first for chunk in recording.chunks if chunk.part == TRIAL}
    assert looked == {VALIDATION: set(judging[::2]), TRIAL: fitting}
    looked.clear()
    building.build(session, halved(session))
    assert looked[VALIDATION] == set(judging)
