"""Fits that aim at what the activation behind a layer cannot tell from the original's outputs."""

import pytest
import torch
from torch import Tensor, nn

from fxprune.fit.aims import RELAXATION
from fxprune.fit.layer import FitOptions
from fxprune.fit.plateaus import plateaus_behind
from fxprune.fit.row_sums import sum_aims
from fxprune.graph.nodes import attribute
from tests.fit.reductions import Recorded, record
from tests.fit.test_layer import fit, network, reach
from tests.tensors import normal

RIDGE = 1e-8
"""So little that the distance itself is what falls."""
NETS: dict[str, tuple[list[nn.Module], tuple[int, ...], str]] = {
    "linear": ([nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 12), nn.ReLU()], (6,), "2.weight"),
    "through a norm": (
        [
            nn.Conv2d(3, 12, 1),
            nn.Tanh(),
            nn.Conv2d(12, 12, 3, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU6(),
        ],
        (3, 6, 6),
        "2.weight",
    ),
    "grouped": (
        [nn.Conv2d(4, 16, 1), nn.Tanh(), nn.Conv2d(16, 8, 2, groups=2), nn.Hardtanh(-0.2, 0.2)],
        (4, 4, 4),
        "2.weight",
    ),
}


def reduced(kind: str) -> tuple[nn.Sequential, Tensor, Recorded, str]:
    layers, shape, weight = NETS[kind]
    model, x = network(*layers), 2 * normal(300, *shape)
    return model, x, record(model, x, share=0.5), weight


def distance_after(
    kind: str, options: FitOptions, relaxation: float, patch: pytest.MonkeyPatch
) -> float:
    """Squared, of a fitted layer's outputs from those that make no difference, over all rows."""
    patch.setattr("fxprune.fit.aims.RELAXATION", relaxation)
    patch.setattr("fxprune.linalg.refit.START", RIDGE)
    model, x, case, weight = reduced(kind)
    assert isinstance(fit(case, weight, options), float)
    layer, execution = reach(case, weight)
    behind = plateaus_behind(layer, case.reduction)
    assert behind is not None
    given = torch.cat([outputs for _, outputs in execution.results(layer.node.name)])
    if layer.mean is not None:  # what the fit adds lies there
        shifts = (
            attribute(g, layer.mean) for g in (case.reduction.original, case.reduction.reduced)
        )
        old, new = (shift.view(-1, 1, 1) for shift in shifts)
        given = given + old - new
    with torch.no_grad():
        target, given = (y.movedim(1, -1).flatten(0, -2) for y in (model[:3](x), given))
    return float((given - behind.nearest(target, given)).square().sum())


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("rank", [None, 2])
def test_fits_come_nearer_to_what_makes_no_difference(
    kind: str, rank: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = {} if rank is None else {NETS[kind][2]: rank}
    options = FitOptions(ranks=ranks, ridges=(RIDGE,))
    plain, whole, beyond = (
        distance_after(kind, options, step, monkeypatch) for step in (0.0, 1.0, RELAXATION)
    )
    assert whole < 0.99 * plain
    assert beyond < whole


def test_the_rank_that_is_asked_for_is_kept() -> None:
    _, _, case, weight = reduced("grouped")
    fit(case, weight, FitOptions(ranks={weight: 2}))
    for part in case.reduction.tensor(weight).flatten(1).chunk(2):
        assert int(torch.linalg.matrix_rank(part)) == 2


def test_a_trial_is_fitted_to_the_outputs_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    options = FitOptions(ridges=(RIDGE,), both=False)
    plain, aimed = (
        distance_after("linear", options, step, monkeypatch) for step in (0.0, RELAXATION)
    )
    assert plain == aimed


def test_sums_are_those_of_the_aims() -> None:
    model, x, case, weight = reduced("linear")
    layer, execution = reach(case, weight)
    behind = plateaus_behind(layer, case.reduction)
    assert behind is not None
    guess, shift = normal(1, 12, 8).double(), normal(1, 12).double()
    found = sum_aims(layer, execution, behind, guess, shift)
    assert found is not None
    with torch.no_grad():
        hidden, target = model[:2](x)[:, :8], model[:3](x)
    given = hidden @ guess[0].T + shift[0]
    aims = torch.where(target <= 0, given.clamp(max=0), target)
    torch.testing.assert_close(found[0][0], aims.sum(0))
    torch.testing.assert_close(found[1][0], hidden.T @ aims)
