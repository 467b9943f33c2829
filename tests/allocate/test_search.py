"""What is recorded of the original, and the plans that are tried with it."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune import BudgetError
from fxprune.allocate.planning import allocated
from fxprune.allocate.search import GAIN, PROMISE, RANKS_FACTOR, Search
from fxprune.calibrate.loader import Calibration
from fxprune.calibrate.observe import Observer
from fxprune.calibrate.recording import rows_per_example
from fxprune.label.analysis import activations
from fxprune.linalg.gram import gram
from fxprune.plans.budget import Budget
from fxprune.plans.factoring import Factoring
from fxprune.session import Session, held_out_for, open_session
from tests.nets import images, loader, tiny


def opened(model: nn.Module, batches: list[Tensor], effort: int, memory: float = 1e9) -> Session:
    return open_session(
        model,
        batches,
        example=None,
        ignore=(),
        keep=None,
        round_to=1,
        seed=0,
        memory=memory,
        progress=False,
        decision=None,
        held_out=held_out_for(Budget(flops=1.0)),
        effort=effort,
    )


def searched(session: Session, monkeypatch: pytest.MonkeyPatch, method: str = "channels") -> Search:
    """The search that an allocation went through."""
    held: list[Search] = []
    best = Search.best
    monkeypatch.setattr(Search, "best", lambda self: (held.append(self), best(self))[1])
    allocated(session, method, "output-aware", {"flops": 0.5})
    return held[0]


def test_the_least_effort_tries_nothing_and_takes_uniform_widths() -> None:
    session = opened(tiny(), loader(), effort=1)
    channels, uniform = (
        allocated(session, method, "output-aware", {"flops": 0.5})[1]
        for method in ("channels", "uniform")
    )
    assert channels.widths.tolist() == uniform.widths.tolist()
    assert not session.trials


def test_more_effort_tries_more_plans_and_never_ends_with_a_worse_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Search, "_deserves", lambda self, option: False)
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
    few, many = (searched(opened(model, batches, effort=e), monkeypatch) for e in (2, 9))
    assert len(few.tried) == 2
    assert len({o.key for _, o in many.tried}) == len(many.tried) == 9
    assert [o.key for _, o in many.tried[:2]] == [o.key for _, o in few.tried]
    assert min(e for e, _ in many.tried) <= min(e for e, _ in few.tried) <= few.tried[0][0]


@pytest.mark.parametrize(
    ("errors", "promised", "tries"),
    [
        ((1.0, 0.5, 0.4), 0.41, 2),
        ((1.0, 0.5, 0.4), 0.39, 3),
        ((1.0, 1.5, 0.5), 2.0, 3),
        ((1.0, 1.5, 2.0), 0.1, 3),
    ],
)
def test_one_more_plan_is_tried_where_these_disappoint(
    errors: tuple[float, ...], promised: float, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = iter(errors)
    monkeypatch.setattr("fxprune.allocate.search.trial", lambda *plan: next(shown))
    monkeypatch.setattr(Search, "promise", lambda self, option: promised)
    search = searched(opened(tiny(), loader(), effort=2), monkeypatch)
    assert [error for error, _ in search.tried] == list(errors[:tries])
    assert search._leader()[0] == min(errors[:tries])


def test_ranks_are_taken_only_where_they_are_clearly_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = torch.randn(200, 6) @ torch.randn(6, 60)
    session = opened(
        nn.Sequential(nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 5)), [inputs], effort=4
    )
    search = searched(session, monkeypatch, "auto")
    split = next((e, o) for e, o in search.tried if o.ranks)
    whole = min((e, o.key) for e, o in search.tried if not o.ranks)
    for error, wins in ((GAIN * whole[0] * 0.99, True), (GAIN * whole[0] * 1.01, False)):
        search.tried = [(e, o) for e, o in search.tried if not o.ranks] + [(error, split[1])]
        assert bool(search._leader()[1].ranks) is wins


def test_what_is_promised_is_learnt_from_the_plans_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    search = searched(opened(tiny(), loader(), effort=2), monkeypatch)
    search.tried = search.tried[:2]
    (first, uniform), (second, blend) = search.tried
    assert (uniform.mix, blend.mix > 0) == (0.0, True)
    for error, option in search.tried:
        assert search.promise(option) == pytest.approx(error)
    between = search.promise(replace(uniform, mix=blend.mix / 2))
    assert between == pytest.approx(
        uniform.error * math.sqrt(first / uniform.error * second / blend.error)
    )
    ranks = {"layer.weight": Factoring(1)}
    split = replace(uniform, error=0.0, ranks=ranks, errors={"layer.weight": 2.0})
    assert search.promise(split) == pytest.approx(PROMISE * RANKS_FACTOR * 2.0)
    for shown, factor in ((0.5, RANKS_FACTOR), (9.0, 4.5)):
        search.tried = [(first, uniform), (second, blend), (shown, split)]
        assert search.promise(split) == pytest.approx(PROMISE * factor * 2.0)


def test_a_model_that_is_flat_everywhere_promises_nothing_and_is_still_compressed() -> None:
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


@pytest.mark.parametrize("memory", [1e9, 0.0])
def test_samples_are_the_originals_outputs(memory: float) -> None:
    session = opened(tiny(), loader(), effort=1, memory=memory)
    recording = session.recorded()
    assert sum(c.size for c in recording.chunks) == int(session.fit.sum())
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


def test_what_judges_is_not_fitted_on() -> None:
    session = opened(tiny(), loader(), effort=1)
    judging = sum(c.size for c in session.recorded().chunks if c.part == "validation")
    assert 0 < judging < 0.25 * session.fit.sum()
    for site, held in session.statistics().items():
        assert (
            held.examples
            == session.fit.sum() - judging
            == session.statistics(everything=True)[site].examples - judging
        )


def test_large_activations_make_small_batches_that_count_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fxprune.calibrate.moments.POSITIONS", 1000)
    monkeypatch.setattr("fxprune.calibrate.moments.POSITIONS_PER_CHANNEL", 1)
    whole = opened(tiny(), loader(), effort=1)
    largest = max(activations(whole.graph, whole.analysis))
    monkeypatch.setattr("fxprune.session.CACHED", 3.5 * largest)
    small = opened(tiny(), loader(), effort=1)
    assert (
        max(c.size for c in whole.recorded().chunks)
        > 3
        == max(c.size for c in small.recorded().chunks)
    )
    assert sum(c.size for c in small.recorded().chunks) == small.fit.sum()
    for site, held in whole.statistics(everything=True).items():
        other = small.statistics(everything=True)[site]
        assert held.examples == other.examples
        # A batch's share is rounded up.
        assert all(
            a <= b <= a + len(small.recorded().chunks)
            for a, b in zip(held.rows, other.rows, strict=True)
        )


@pytest.mark.parametrize(("features", "rows"), [(9, 1152), (48, 6144), (512, 6144), (1000, 12000)])
def test_observations_of_a_fit(features: int, rows: int) -> None:
    assert 50 * 2 * rows_per_example(features, calls=2, examples=50) == pytest.approx(rows)


def test_the_gram_matrix_of_many_features_is_mirrored() -> None:
    rows = torch.randn(2, 50, 300, dtype=torch.float64)
    torch.testing.assert_close(gram(rows), rows.mT @ rows)


def test_what_is_left_of_small_batches_is_put_together_in_order() -> None:
    x = images(60)
    chosen = np.zeros(60, dtype=bool)
    chosen[::3] = True
    found = list(Calibration(tiny(), list(x.split(8))).batches(chosen))
    assert [b.size for b in found[:-1]] == [8] * (len(found) - 1)
    torch.testing.assert_close(torch.cat([b.args[0] for b in found]), x[::3])


def test_batches_of_other_shapes_or_constants_stay_apart() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return x * scale

    one, two = torch.ones(()), torch.tensor(2.0)
    batches = [
        (images(4), one),
        (images(4, 1), one),
        (images(4, 2), two),
        (images(4, 3, size=6), two),
    ]
    found = list(Calibration(Scaled(), batches).batches(np.arange(16) % 2 == 0))
    assert [(b.size, float(b.args[1]), b.args[0].shape[-1]) for b in found] == [
        (4, 1.0, 8),
        (2, 2.0, 8),
        (2, 2.0, 6),
    ]
