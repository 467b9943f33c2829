"""Factors of matrices, and layers replaced by two."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.errors import PlanError
from fxprune.fit.factor import factorize_layers, require_layers
from fxprune.plans.factoring import Factoring
from fxprune.plans.plan import Plan
from fxprune.session import Session
from tests.tensors import normal


def layered() -> GraphModule:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(24, 8)).double()
    return capture(model, make_batch((normal(2, 4, 4, 4),), {})).graph


def test_a_weight_loses_its_smallest_singular_values() -> None:
    graph = layered()
    weight = graph.get_parameter("2.weight").detach().clone()
    factorize_layers(graph, {"2.weight": Factoring(3)})
    left, values, right = np.linalg.svd(weight.numpy(), full_matrices=False)
    expected = left[:, :3] * values[:3] @ right[:3]
    found = graph.get_parameter("2.1.weight") @ graph.get_parameter("2.0.weight")
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("weight", "how"),
    [
        ("2.weight", Factoring(9)),
        ("2.weight", Factoring(2, encoders=2)),
        ("0.weight", Factoring(2, groups=4)),
        ("0.weight", Factoring(2, groups=2, encoders=4)),
    ],
)
def test_a_factoring_that_does_not_fit_is_an_error(weight: str, how: Factoring) -> None:
    graph = layered()
    before = str(graph.graph)
    with pytest.raises(PlanError, match=f"{weight} of shape .* cannot be replaced by two layers"):
        factorize_layers(graph, {weight: how})
    assert str(graph.graph) == before


def test_a_plan_for_other_layers_is_an_error() -> None:
    session = SimpleNamespace(graph=layered(), ignored=lambda name: name == "0.weight")
    for name, reason in (
        ("0.weight", "ignored on request"),
        ("third.weight", "no layer has a weight of that name"),
    ):
        plan = Plan({}, {}, {}, factorings={name: Factoring(1)})
        with pytest.raises(PlanError, match=f"{name} by two layers; in this model {reason}"):
            require_layers(cast(Session, session), plan)
    require_layers(cast(Session, session), Plan({}, {}, {}, factorings={"2.weight": Factoring(1)}))
