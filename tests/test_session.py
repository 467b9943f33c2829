"""What a session observes of the original, once, and in which parts."""

from dataclasses import FrozenInstanceError
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from fxprune.calibrate.observe import Observer
from fxprune.calibrate.split import EVERY_PART, split_examples
from fxprune.label.analysis import activations
from fxprune.plans.methods import METHODS
from tests.nets import loader, session_of, tiny


@pytest.mark.parametrize("memory", [1e9, 0.0])
def test_samples_are_the_originals_outputs(memory: float) -> None:
    session = session_of(tiny(), loader(), memory=memory)
    recording = session.statistics.observed.recording
    assert sum(c.size for c in recording.chunks) == session.split.fitting
    for chunk in recording.chunks:
        seen: dict[str, Tensor] = {}
        names = list(chunk.samples)
        observer = Observer(
            session.graph, {name: partial(seen.__setitem__, name) for name in names}
        )
        with torch.no_grad():
            observer.run(
                *(recording.store.get(x) for x in chunk.inputs), enable_io_processing=False
            )
        for name in names:
            places, targets = recording.sample(chunk, name)
            positions = seen[name].movedim(1, -1)
            assert places.shape == (positions.dim() - 1, len(targets))
            torch.testing.assert_close(positions[tuple(places)], targets, rtol=0, atol=0)


def test_the_validation_split_is_not_fitted_on() -> None:
    session = session_of(tiny(), loader())
    validating = sum(
        c.size for c in session.statistics.observed.recording.chunks if c.part == "validation"
    )
    assert 0 < validating < 0.25 * session.split.fitting
    for site, held in session.statistics.observed.moments.items():
        assert (
            held.examples
            == session.split.fitting - validating
            == session.statistics.observed.all_moments[site].examples - validating
        )


def test_large_activations_make_small_batches_that_count_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fxprune.calibrate.moments.POSITIONS", 1000)
    monkeypatch.setattr("fxprune.calibrate.moments.POSITIONS_PER_CHANNEL", 1)
    whole = session_of(tiny(), loader())
    largest = max(activations(whole.graph, whole.analysis))
    monkeypatch.setattr("fxprune.intake.CACHED", 3.5 * largest)
    small = session_of(tiny(), loader())
    assert (
        max(c.size for c in whole.statistics.observed.recording.chunks)
        > 3
        == max(c.size for c in small.statistics.observed.recording.chunks)
    )
    assert sum(c.size for c in small.statistics.observed.recording.chunks) == small.split.fitting
    for site, held in whole.statistics.observed.all_moments.items():
        other = small.statistics.observed.all_moments[site]
        assert held.examples == other.examples
        # A batch's share is rounded up.
        assert all(
            a <= b <= a + len(small.statistics.observed.recording.chunks)
            for a, b in zip(held.rows, other.rows, strict=True)
        )


def test_statistics_are_computed_once_and_shared_under_other_options() -> None:
    session = session_of(tiny(), loader())
    other = session.using(method=METHODS["paper"])
    assert other.options.method.name == "paper"
    assert other.statistics.observed is session.statistics.observed
    assert session.statistics.profiles("pivoted-qr") is other.statistics.profiles("pivoted-qr")
    assert other.costs is not session.costs


def test_a_session_cannot_be_changed() -> None:
    session = session_of(tiny(), loader())
    with pytest.raises(FrozenInstanceError):
        session.floor = session.floor  # type: ignore[misc]


@pytest.mark.parametrize("examples", [2, 5, 9, 300])
def test_every_example_has_one_purpose(examples: int) -> None:
    split = split_examples(examples, examples // 5, seed=3)
    parts = [split.part(name) for name in EVERY_PART]
    assert (np.sum([split.held_out, *parts], axis=0) == 1).all()
    assert split.first(4).sum() == min(4, split.fitting)
    assert not (split.first(4) & split.held_out).any()
