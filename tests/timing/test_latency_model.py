"""Seconds as a function of the widths: exact on a set clock, never negative, never falling."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.label.analysis import analyze_graph
from fxprune.label.groups import Analysis, CostTerm
from fxprune.profile.costs import CostModel
from fxprune.timing.latency_model import SHARES, evaluate, fit_call_seconds, fit_terms
from fxprune.timing.latency_probe import LatencyProbe
from fxprune.timing.layer_times import LayerTimes
from fxprune.timing.workload import Workload
from tests.nets import images
from tests.timing.conftest import PER_FLOP


def wide() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(
            nn.Conv2d(3, 32, 3),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ),
        *(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4)),
    ).eval()


@pytest.mark.usefixtures("clock")
def test_terms_reproduce_the_clock(tmp_path: Path) -> None:
    model, example = wide(), make_batch((images(2),), {})
    captured = capture(model, example)
    analysis = analyze_graph(captured.graph, example.size)
    probe, table = (
        LatencyProbe(model, example, Workload(batch=2)),
        LayerTimes(torch.device("cpu"), Workload(batch=2), tmp_path),
    )
    terms = fit_call_seconds(captured.graph, analysis, example, probe, np.array(1), table)
    costs = CostModel(captured.graph, analysis, terms)
    # Contractions are exact; the other calls stand for the rest of the original's time.
    assert sum(t.amount for t in terms) == pytest.approx(probe.seconds, rel=1e-6)
    linear = [t for t in terms if t.node == "linear" and len(t.axes) == 2]
    assert sum(t.amount for t in linear) == pytest.approx(PER_FLOP * 2 * 2 * 64 * 32, rel=1e-3)
    assert costs.fractions(costs.full)["latency"] == pytest.approx(1)
    shrinking = [costs.fractions(share * costs.full)["latency"] for share in (1.0, 0.8, 0.5, 0.1)]
    assert shrinking == sorted(shrinking, reverse=True)


def test_cost_terms_multiply_kept_shares() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5))
    captured = capture(model, make_batch((torch.randn(2, 3),), {}))
    analysis = analyze_graph(captured.graph, 2)
    (ids,) = [g.blocks[0] for g in analysis.groups]
    half = np.concatenate([ids, np.zeros(4, dtype=ids.dtype)])
    costs = CostModel(
        captured.graph,
        analysis,
        [CostTerm("a", 3.0, (ids,)), CostTerm("b", 1.0, (half, ids)), CostTerm("c", 2.0, ())],
    )
    assert costs.fractions(np.array([2]))["latency"] == pytest.approx(
        (3 * 0.5 + 0.75 * 0.5 + 2) / 6
    )
    assert "latency" not in CostModel(captured.graph, analysis).fractions(costs.full)


COST_TERMS = st.lists(
    st.tuples(st.floats(0, 1), st.lists(st.sampled_from([0, 1, 2]), max_size=2)),
    min_size=1,
    max_size=3,
)


@functools.cache
def three_groups() -> Analysis:
    """Groups of 4, 6 and 8 channels."""
    model = nn.Sequential(
        *(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 6), nn.ReLU()),
        *(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)),
    )
    captured = capture(model, make_batch((torch.randn(2, 3),), {}))
    return analyze_graph(captured.graph, 2)


@settings(deadline=None)
@example([[(0.0, []), (5e-324, [])]], [1.0] * 4, (1.0,) * 3, (1.0,) * 3)
@given(
    st.lists(COST_TERMS, min_size=1, max_size=3),
    st.lists(st.floats(1e-9, 1), min_size=4, max_size=4),
    st.tuples(*[st.floats(0.01, 1)] * 3),
    st.tuples(*[st.floats(0.01, 1)] * 3),
)
def test_fitted_seconds_are_never_negative_and_never_fall(
    features: list[list[tuple[float, list[int]]]],
    seconds: list[float],
    some: tuple[float, ...],
    others: tuple[float, ...],
) -> None:
    """Whatever the clock showed: times that fall with the width, or that make no sense at all."""
    analysis = three_groups()
    channels = [group.blocks[0] for group in analysis.groups]
    costs = [
        [CostTerm("call", size, tuple(channels[g] for g in groups)) for size, groups in feature]
        for feature in features
    ]
    kept = np.array(SHARES)[:, None].repeat(3, 1)
    terms = fit_terms(costs, seconds, analysis, kept)
    owner = analysis.group_of()

    def time(shares: tuple[float, ...]) -> float:
        return sum(evaluate(term, owner, np.array(shares)) for term in terms)

    assert all(term.amount >= 0 for term in terms)
    assert 0 <= time(some)
    wider = tuple(map(max, some, others))
    assert time(some) <= time(wider) * (1 + 1e-9)


def test_times_of_a_sum_of_features_are_fitted_exactly() -> None:
    analysis = three_groups()
    (first, second, _) = (group.blocks[0] for group in analysis.groups)
    features = [[CostTerm("call", 1.0, ())], [CostTerm("call", 1.0, (first, second))]]
    kept = np.array([(1.0, 1.0, 1.0), (0.5, 0.5, 1.0), (0.25, 0.5, 1.0), (1.0, 0.5, 1.0)])
    seconds = [2e-6 + 3e-6 * a * b for a, b, _ in kept]
    terms = fit_terms(features, seconds, analysis, kept)
    assert [t.amount for t in terms] == pytest.approx([2e-6, 3e-6])
    assert [len(t.axes) for t in terms] == [0, 2]
