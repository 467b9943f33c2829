"""Steps of `fxprune.recover` that are too large are followed by smaller ones."""

import logging
import math

import numpy as np
import pytest

import fxprune
from fxprune.handover.rows import RecoveryRow
from tests.recovery.subjects import compressed, recovered
from tests.test_progress import heard

BACK = "even there clearly worse: back to step 0, with matrices at 0.03 times the rate"
WILD = fxprune.Training(rate=0.1)


def told_while(**options: object) -> tuple[list[str], RecoveryRow]:
    """What a training of sixty steps decides, and its row of the report."""
    with heard(logging.INFO) as said:
        better = recovered(compressed(), steps=60, **options)
    row = fxprune.report(better).recovery
    assert row is not None
    return [text for _, text in said], row


def test_steps_that_are_too_large_are_known_once_the_rate_is_up() -> None:
    told, recovery = told_while(training=WILD)
    before = told.index(BACK) - 1
    assert told[before].startswith("step 3, 0.5 of the way: divergence")
    assert told[before].endswith("before")
    assert not any(text.startswith("step 6, 0.5") for text in told[: before + 1])
    assert recovery.kept > 0
    assert recovery.divergence[1] < recovery.divergence[0]
    told, _ = told_while()
    assert sum("examples that are trained on" in text for text in told) == 1
    assert BACK not in told


def test_after_steps_that_were_too_large_smaller_ones_begin_at_the_best_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fxprune.recovery.loop.NOTICED", math.inf)
    told, recovery = told_while(training=WILD)
    back = told.index(BACK)
    assert [text.partition(":")[0] for text in told[back - 3 : back]] == [
        "step 6",
        "step 6, 0.5 of the way",
        "step 6, 0.25 of the way",
    ]
    assert "0.5 of the way: divergence" in told[back + 1]
    assert recovery.kept > 0
    assert recovery.divergence[1] < recovery.divergence[0]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "step", "constant"])
def test_the_rate_rises_again_where_training_goes_back(schedule: str) -> None:
    training = fxprune.Training(rate=2.0, warmup=0.1, schedule=schedule)
    rates = {
        began: [training.rate_at(done, began) for done in (0.3, 0.35, 0.4, 0.6, 1.0)]
        for began in (0.0, 0.3)
    }
    assert rates[0.3][2:] == rates[0.0][2:]
    np.testing.assert_allclose(np.divide(rates[0.3], rates[0.0])[:2], (1 / 101, 51 / 101))
    assert training.rate_at(0.0) == pytest.approx(2 / 101)
    assert training.rate_at(0.1) == 2.0
    assert max(training.rate_at(done / 100) for done in range(101)) == 2.0
