"""Samples of the original's outputs: where they lie, how many, and that they are its outputs."""

from collections.abc import Iterable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx import GraphModule

from fxprune.calibrate.batching import in_order
from fxprune.calibrate.observe import Observer, arguments
from fxprune.calibrate.recording import (
    LARGEST_SHARE,
    LARGEST_SYSTEM,
    LEAST_WORK,
    VALIDATION,
    Recording,
    _one_per_stretch,
    rows_per_example,
)
from fxprune.calibrate.spill import Spill
from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from tests.nets import images, tiny


@pytest.mark.parametrize(("features", "rows"), [(9, 1152), (48, 6144), (512, 6144), (1000, 12000)])
def test_observations_of_a_fit(features: int, rows: int) -> None:
    assert 50 * 2 * rows_per_example(features, calls=2, examples=50) == pytest.approx(rows)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 200_000), st.floats(1e6, 1e15))
def test_products_of_a_fit_keep_their_work(features: int, work: float) -> None:
    rows = rows_per_example(features, 1, 1, work)
    allowed = max(LARGEST_SHARE * work, LEAST_WORK)
    assert rows <= rows_per_example(features, 1, 1)
    if rows >= features:
        assert features <= LARGEST_SYSTEM
        assert rows * features**2 <= allowed * (1 + 1e-9)
    else:
        assert rows <= LARGEST_SYSTEM
        assert rows**2 * features <= allowed * (1 + 1e-9)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 500), st.integers(0, 600), st.integers(0, 10))
def test_one_of_every_stretch(total: int, wanted: int, seed: int) -> None:
    found = _one_per_stretch(total, wanted, torch.Generator().manual_seed(seed))
    assert len(found) == min(total, wanted)
    if wanted < total:
        ordered, stretch = found.sort().values.double(), total / max(wanted, 1)
        starts = torch.arange(len(found)) * stretch
        # Positions are whole numbers, stretches are not: two may share one at their border.
        assert ((ordered > starts - 1) & (ordered < starts + stretch)).all()
    else:
        assert sorted(found.tolist()) == list(range(total))


def results(graph: GraphModule, inputs: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """What nodes give on flat inputs."""
    seen: dict[str, Tensor] = {}
    with torch.no_grad():
        Observer(graph, {name: partial(seen.__setitem__, name) for name in names}).run(
            inputs, enable_io_processing=False
        )
    return seen


@pytest.mark.parametrize("limit", [1e9, 0.0], ids=["in memory", "on disk"])
def test_what_was_recorded_is_what_the_original_gave(limit: float) -> None:
    batches = [make_batch((images(6, seed),), {}) for seed in range(3)]
    captured = capture(tiny(), batches[0])
    recording = Recording(captured.graph, 18, Spill(limit))
    observer = Observer(captured.graph, recording.watch)
    parts = ("try", VALIDATION, "rest")
    for number, (part, batch) in enumerate(zip(parts, batches, strict=True)):
        for _, followed in recording.follow(part, in_order([batch], 6 * number)):
            with torch.no_grad():
                observer.run(*arguments(captured.graph, followed), enable_io_processing=False)
    assert [(c.part, c.first, c.size) for c in recording.chunks] == [
        ("try", 0, 6),
        (VALIDATION, 6, 6),
        ("rest", 12, 6),
    ]
    for chunk, batch in zip(recording.chunks, batches, strict=True):
        (inputs,) = (recording.store.get(item) for item in chunk.inputs)
        assert torch.equal(inputs, batch.args[0])
        seen = results(captured.graph, inputs, chunk.samples)
        assert len(seen) == 4
        for name, value in seen.items():
            places, targets = recording.sample(chunk, name)
            assert torch.equal(value.movedim(1, -1)[tuple(places)], targets)
        assert bool(chunk.outputs) == (chunk.part == VALIDATION)
    with torch.no_grad():
        wanted = tiny()(batches[1].args[0])
    torch.testing.assert_close(recording.outputs(recording.chunks[1]), wanted)


def test_a_layer_that_needs_less_than_one_position_per_example() -> None:
    """Of examples that come one by one some give none."""
    batches = [make_batch((images(1, seed),), {}) for seed in range(40)]
    captured = capture(tiny(), make_batch((images(2),), {}))
    recording = Recording(captured.graph, 100_000, Spill(1e9))
    observer = Observer(captured.graph, recording.watch)
    for _, followed in recording.follow("try", in_order(batches)):
        with torch.no_grad():
            observer.run(*arguments(captured.graph, followed), enable_io_processing=False)
    for name in recording.chunks[0].samples:
        counts = [len(recording.sample(chunk, name)[1]) for chunk in recording.chunks]
        assert 0 in counts
        assert 1 <= sum(counts) < 40
