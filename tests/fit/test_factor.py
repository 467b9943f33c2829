"""Factors of matrices, and layers replaced by two."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from torch.fx import GraphModule

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.errors import PlanError
from fxprune.fit.factor import factorize_layers, require_layers
from fxprune.linalg import alds, pca, svd
from fxprune.plans.factoring import Factoring
from fxprune.plans.plan import Plan
from fxprune.session import Session
from tests.tensors import normal


def test_svd_factors_are_the_best_of_their_rank() -> None:
    matrices = normal(2, 3, 7, 5)
    tail = svd.dropped(matrices)
    values = np.array([scipy.linalg.svdvals(m) for m in matrices.reshape(-1, 7, 5).numpy()])
    np.testing.assert_allclose(tail, [(values[:, r:] ** 2).sum() for r in range(6)], atol=1e-12)
    for rank in (1, 3, 5):
        left, right = svd.factor(matrices, rank)
        assert (left.shape, right.shape) == ((2, 3, 7, rank), (2, 3, rank, 5))
        torch.testing.assert_close(
            left.mT @ left, torch.eye(rank, dtype=torch.float64).expand(2, 3, rank, rank)
        )
        assert float((matrices - left @ right).square().sum()) == pytest.approx(
            tail[rank], abs=1e-12
        )


@pytest.mark.parametrize("intercept", [True, False])
def test_pca_is_the_reduced_rank_regression(intercept: bool) -> None:
    x, noise, w = normal(200, 6, seed=1), normal(200, 5, seed=2), normal(5, 6, seed=3)
    x = x * torch.tensor([5.0, 3, 1, 1, 0.3, 0.1]) + 2
    y = x @ w.T + 1.5 + 0.3 * noise
    design = np.hstack([x.numpy(), np.ones((200, 1))]) if intercept else x.numpy()
    solution = np.linalg.lstsq(design, y.numpy(), rcond=None)[0].T
    weight, shift = (
        torch.from_numpy(solution[:, :6]),
        torch.from_numpy(solution[:, 6] if intercept else np.zeros(5)),
    )
    z = x @ weight.T
    mean, centered = z.mean(0), z - z.mean(0)
    for rank in (1, 2, 5):
        found, moved = pca.truncate(
            weight[None],
            shift[None],
            (centered.T @ centered / 200)[None],
            mean[None],
            rank,
            intercept,
        )
        assert np.linalg.matrix_rank(found[0].numpy()) == rank
        # Izenman 1975: project the fitted values (about their mean, where there is an intercept)
        # on their leading singular vectors.
        fitted = (centered if intercept else z).numpy()
        right = scipy.linalg.svd(fitted, full_matrices=False)[2][:rank]
        wanted = fitted @ right.T @ right + (y.mean(0).numpy() if intercept else 0)
        np.testing.assert_allclose((x @ found[0].T + moved[0]).numpy(), wanted, atol=1e-9)
        if intercept:
            error = np.square(z.numpy() + shift.numpy() - wanted).sum() / 200
            assert pca.dropped(centered.T @ centered / 200)[rank] == pytest.approx(error, abs=1e-9)


def test_alds_bounds_the_operator_norm() -> None:
    weight = normal(1, 1, 6, 12)
    whole = scipy.linalg.svdvals(weight[0, 0].numpy())
    np.testing.assert_allclose(alds.bounds(weight), [*(whole / whole[0]), 0])
    for parts in (2, 3, 4):
        cut = torch.stack(weight[0, 0].chunk(parts, 1))[None]
        found = alds.bounds(cut)
        for rank in range(1, min(cut.shape[-2:])):
            left, right = svd.factor(cut, rank)
            rest = torch.cat(list((cut - left @ right)[0]), 1)
            assert np.linalg.norm(rest.numpy(), 2) / whole[0] <= found[rank] + 1e-12


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
