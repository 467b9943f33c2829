"""Which examples a fit sees: of a trial, of what is handed over; and when nothing is folded."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fxprune.calibrate.recording import VALIDATION
from fxprune.calibrate.split import EVERY_PART, REST, TRIAL
from fxprune.fit import build as building
from fxprune.fit.build import build, trial_error
from fxprune.label.keep import keep_all, keep_first
from fxprune.session import Session
from tests.nets import images, session_of, tiny


def parts_seen(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The parts that each fit in lockstep has read, in the order of the fits."""
    seen: list[list[str]] = []

    def spy(reduction: Any, recording: Any, parts: Any, *rest: Any) -> None:
        seen.append(sorted({chunk.part for chunk in recording.chunks if chunk.part in parts}))

    monkeypatch.setattr(building, "fit_in_lockstep", spy)
    return seen


def halved(session: Session) -> np.ndarray:
    return keep_first(session.analysis, [g.width // 2 for g in session.analysis.groups])


@pytest.mark.parametrize(("examples", "trial"), [(96, [TRIAL, VALIDATION]), (2, [REST])])
def test_trials_are_fitted_on_their_own_part(
    examples: int, trial: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(tiny(), images(examples).split(32))
    seen = parts_seen(monkeypatch)
    trial_error(session, halved(session))
    assert seen == [trial]


def test_what_is_handed_over_is_fitted_on_every_example(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_of(tiny(), images(96).split(32))
    seen = parts_seen(monkeypatch)
    build(session, halved(session))
    assert seen == [sorted(EVERY_PART)]


def outputs(session: Session, keep_mask: np.ndarray, x: Tensor) -> Tensor:
    with torch.no_grad():
        made: Tensor = build(session, keep_mask)(x)
    return made


def test_without_a_change_nothing_is_fitted() -> None:
    model, x = tiny(), images(5, seed=1)
    session = session_of(model, images(96).split(32))
    with torch.no_grad():
        torch.testing.assert_close(outputs(session, keep_all(session.analysis), x), model(x))
        apart = outputs(session, halved(session), x) - model(x)
        assert 0 < apart.norm() < model(x).norm()
