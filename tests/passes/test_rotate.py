"""A rotated graph is the same function, whatever the bases."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.errors import RequirementError
from fxprune.label.analysis import analyze_graph
from fxprune.label.keep import keep_all
from fxprune.label.rotatable import mark_rotatable
from fxprune.label.turning import Basis
from fxprune.passes import ReduceChannels, Rotate
from fxprune.plans.plan import make_plan
from tests.passes.test_reduce_channels import EXACT, distance, example, masked, relaxed
from tests.rotations import NETS, examples, random_bases
from tests.strategies import BLOCKS, Pooled, networks, randomized


def prove(model: nn.Module, x: torch.Tensor) -> tuple[str, ...]:
    """In random bases the outputs stay; what may be rotated."""
    graph = capture(model, make_batch((x[:2],), {})).graph
    analysis = mark_rotatable(graph, analyze_graph(graph, 2))
    turned = Rotate(analysis, random_bases(analysis))(graph).graph_module
    assert distance(model(x), turned(x)) <= EXACT
    return analysis.rotatable


@torch.no_grad()
@pytest.mark.parametrize("make", NETS, ids=lambda make: make.__name__)
def test_outputs_stay_and_dropped_coordinates_are_zeros(make: Any) -> None:
    torch.manual_seed(0)
    model, x = make().double().eval(), examples(make, 5)
    graph = capture(model, make_batch((x[:2],), {})).graph
    analysis = mark_rotatable(graph, analyze_graph(graph, 2))
    turned = Rotate(analysis, random_bases(analysis))(graph).graph_module
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert distance(model(x), turned(x)) <= EXACT
    changed = {n for n, t in turned.state_dict().items() if not torch.equal(t, before[n])}
    weights = {n for g in analysis.groups if g.name in analysis.rotatable for n, _ in g.members}
    read = {
        c.parameter for g in analysis.groups if g.name in analysis.rotatable for c in g.consumers
    }
    # Biases that are zero stay so.
    assert changed - read <= weights <= changed | {n for n in before if n.endswith("bias")}
    assert read <= changed
    # Coordinates are dropped as channels are: with zeros in their place the outputs are those.
    keep_mask = keep_all(analysis)
    for group in analysis.groups:
        keep_mask[group.blocks[:, group.width // 2 :]] = False
    small = ReduceChannels(analysis, keep_mask)(turned).graph_module
    plan = make_plan(analysis, keep_mask, turned.state_dict(), "random", {})
    assert distance(masked(turned, small, plan)(x), small(x)) <= EXACT
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@torch.no_grad()
@settings(relaxed, max_examples=12)
@given(networks(), st.integers(0, 1000))
def test_any_network_stays_the_same_function(model: nn.Module, seed: int) -> None:
    prove(model, example(3, seed))


@torch.no_grad()
@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.__name__)
def test_every_construct_without_activations_around_it(block: Any) -> None:
    torch.manual_seed(0)
    inner = block(8, 4)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), inner, Pooled(inner.out, 4))
    prove(randomized(model).double(), example(3))


def test_only_bases_of_what_may_be_rotated_are_taken() -> None:
    make = NETS[-2]
    model, x = make().double().eval(), examples(make, 2)
    graph = capture(model, make_batch((x,), {})).graph
    analysis = mark_rotatable(graph, analyze_graph(graph, 2))
    eye = np.eye(10)[None]
    with pytest.raises(RequirementError, match="second cannot be rotated: aten.relu"):
        Rotate(analysis, {"second": Basis(eye, eye)})(graph)
    with pytest.raises(RequirementError, match="channels ask for"):
        Rotate(analysis, {"first": Basis(eye, eye)})(graph)
