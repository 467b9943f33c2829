"""Plans as data: JSON both ways, keep masks both ways, reduced shapes, and what is refused."""

import json
import string
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.errors import PlanError
from fxprune.label.analysis import analyze_graph
from fxprune.label.keep import keep_random
from fxprune.plans.factoring import Factoring
from fxprune.plans.plan import (
    VERSION,
    Indices,
    Plan,
    keep_mask_of,
    make_plan,
    reduced_shape,
    scatter,
)
from tests.strategies import networks

NAMES = st.text(string.ascii_lowercase + "._", min_size=1, max_size=12)
INDICES = st.lists(st.integers(0, 99), max_size=5)
FACTORINGS = st.builds(
    Factoring, st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.booleans()
)
PLANS = st.builds(
    Plan,
    st.dictionaries(
        NAMES,
        st.dictionaries(st.integers(0, 4), INDICES | st.lists(INDICES, min_size=1, max_size=3)),
    ),
    st.dictionaries(NAMES, st.lists(st.integers(1, 99), max_size=4).map(tuple)),
    st.dictionaries(NAMES, st.integers(0, 99)),
    NAMES,
    st.dictionaries(NAMES, st.integers() | st.booleans() | NAMES),
    st.dictionaries(NAMES, FACTORINGS),
)


@given(PLANS)
def test_json_both_ways(plan: Plan) -> None:
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.to_json() == plan.to_json()


def analysis_of(model: nn.Module, *shape: int) -> Any:
    captured = capture(model, make_batch((torch.randn(*shape).to(next(model.parameters())),), {}))
    return analyze_graph(captured.graph, shape[0])


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks(), st.integers(0, 1000))
def test_keep_masks_both_ways(model: nn.Module, seed: int) -> None:
    analysis = analysis_of(model, 2, 3, 4, 4)
    generator = np.random.default_rng(seed)
    widths = [int(generator.integers(1, group.width + 1)) for group in analysis.groups]
    keep_mask = keep_random(analysis, generator, widths)
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    plan = make_plan(analysis, keep_mask, state, "random", {})
    again = keep_mask_of(analysis, Plan.from_json(plan.to_json()))
    # What no weight axis of the model holds, a plan does not speak of.
    held = np.unique(np.concatenate([ids.reshape(-1) for ids in analysis.axes.values()]))
    assert (again[held] == keep_mask[held]).all()
    for name, axes in plan.kept.items():
        shape = plan.shapes[name]
        small = torch.randn(reduced_shape(name, shape, plan))
        full = scatter(small, shape, axes)
        assert full.shape == shape
        assert full.count_nonzero() == small.count_nonzero()
        assert full[full != 0].tolist() == small.reshape(-1).tolist(), "in order"


def test_scatter_puts_every_convolution_group_into_its_own_columns() -> None:
    kept: dict[int, Indices] = {0: [0, 1, 3, 5], 1: [[0, 2], [1, 2]]}
    plan = Plan({"w": kept}, {"w": (6, 3, 1)}, {})
    assert reduced_shape("w", (6, 3, 1), plan) == (4, 2, 1)
    small = torch.arange(1.0, 9).reshape(4, 2, 1)
    assert scatter(small, (6, 3, 1), kept).squeeze(2).tolist() == [
        [1, 0, 2],
        [3, 0, 4],
        [0, 0, 0],
        [0, 5, 6],
        [0, 0, 0],
        [0, 7, 8],
    ]


def test_reduced_shape_leaves_other_parameters_alone() -> None:
    plan = Plan({"w": {0: [1, 2], 1: [0]}}, {"w": (4, 3)}, {})
    assert reduced_shape("w", (4, 3), plan) == (2, 1)
    assert reduced_shape("v", (4, 3), plan) == (4, 3)
    assert reduced_shape("w", (4,), plan) == (2,), "a lower-rank stand-in has no such axis"


def grouped() -> nn.Module:
    """The convolution groups of the second keep equal counts of what they read."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2), nn.ReLU(), nn.Conv2d(4, 2, 1)
    )


VALID = {
    "0.weight": {0: [0, 2]},
    "0.bias": {0: [0, 2]},
    "2.weight": {1: [[0], [0]]},
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"1.weight": {0: [0]}}, r"shortens 1\.weight along axis 0; this model has no such"),
        ({"0.weight": {3: [0]}}, r"shortens 0\.weight along axis 3"),
        ({"4.weight": {0: [0]}}, r"this model has no such weight axis|must stay in this model"),
        ({"0.weight": {0: [0, 4]}}, r"keeps indices of 0\.weight, axis 0, .* not in 0\.\.3"),
        ({"0.weight": {0: ["a"]}}, r"not in 0\.\.3"),
        ({"2.weight": {1: [[0]]}}, r"keeps indices of 2\.weight, axis 1"),
        ({"2.weight": {1: [0, 0]}}, r"disagree about|keeps indices of"),
        ({"0.bias": {0: [0, 1]}}, r"disagree about 0\.weight, axis 0: its channels are coupled"),
        ({"0.bias": {}}, r"disagree about 0\.bias"),
        ({"2.weight": {1: [[0], [1]]}}, r"disagree about"),
    ],
)
def test_a_plan_of_another_model_is_refused(changes: dict[str, Any], words: str) -> None:
    analysis = analysis_of(grouped(), 2, 3, 4, 4)
    assert keep_mask_of(analysis, Plan(VALID, {}, {})).sum() < len(analysis.group_of())  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=words):
        keep_mask_of(analysis, Plan(VALID | changes, {}, {}))  # type: ignore[arg-type]


GOOD = {"version": VERSION, "kept": {}, "shapes": {}, "widths": {}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a plan: .*Pass what Plan.to_json wrote"),
        ("[]", "`version`, `kept`, `shapes` or `widths` is missing"),
        (json.dumps({"version": VERSION}), "is missing"),
        (json.dumps(GOOD | {"version": VERSION + 1}), f"has version {VERSION + 1}; .*Update"),
        (json.dumps(GOOD | {"version": "2"}), "has version 2"),
        (json.dumps(GOOD | {"kept": []}), "malformed"),
        (json.dumps(GOOD | {"kept": {"w": {"axis": [0]}}}), "malformed"),
        (json.dumps(GOOD | {"kept": {"w": {"0": 3}}}), "malformed"),
        (json.dumps(GOOD | {"shapes": {"w": ["x"]}}), "malformed"),
        (json.dumps(GOOD | {"widths": {"w": None}}), "malformed"),
        (json.dumps(GOOD | {"settings": 3}), "malformed"),
        (json.dumps(GOOD | {"factorings": {"w": {"ranks": 2}}}), "malformed"),
        (json.dumps(GOOD | {"factorings": {"w": {"rank": 0}}}), "rank is a whole number"),
    ],
)
def test_text_that_is_no_plan_is_refused(text: str, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        Plan.from_json(text)


def test_an_older_plan_is_read() -> None:
    """Version 1 knew no factorings."""
    plan = Plan.from_json(json.dumps(GOOD | {"version": 1}))
    assert plan == Plan({}, {}, {})
