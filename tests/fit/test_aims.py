"""Fits that aim at what the activation behind a layer cannot tell from the original's outputs."""

import pytest
import torch
from torch import Tensor, nn

from fxprune.fit.aims import ROUNDS
from fxprune.fit.layer import FitOptions
from fxprune.fit.plateaus import plateaus_behind
from fxprune.fit.row_sums import sum_aims, sum_rows
from fxprune.linalg.refit import Refit, solution
from tests.fit.reductions import Recorded, record
from tests.fit.test_layer import fit, network, reach
from tests.tensors import normal

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
        [nn.Conv2d(4, 16, 1), nn.Tanh(), nn.Conv2d(16, 8, 2, groups=2), nn.Hardtanh()],
        (4, 4, 4),
        "2.weight",
    ),
}


def reduced(kind: str) -> tuple[nn.Sequential, Tensor, Recorded, str]:
    layers, shape, weight = NETS[kind]
    model, x = network(*layers), 2 * normal(300, *shape)
    return model, x, record(model, x, share=0.5), weight


def error_behind(kind: str, options: FitOptions, rounds: int, patch: pytest.MonkeyPatch) -> float:
    """Squared error behind the activation, on the examples of the fit."""
    patch.setattr("fxprune.fit.aims.ROUNDS", rounds)
    model, x, case, weight = reduced(kind)
    assert isinstance(fit(case, weight, options), float)
    with torch.no_grad():
        return float((case.reduction.reduced(x) - model(x)).square().sum())


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("rank", [None, 2])
def test_the_error_behind_the_activation_falls(
    kind: str, rank: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = {} if rank is None else {NETS[kind][2]: rank}
    options = FitOptions(ranks=ranks, ridges=(0.1,))
    plain, some, more = (
        error_behind(kind, options, rounds, monkeypatch) for rounds in (0, ROUNDS, 30)
    )
    assert some < 0.97 * plain
    assert more < 1.001 * some
    if rank is not None:
        _, _, case, weight = reduced(kind)
        fit(case, weight, options)
        matrix = case.reduction.tensor(weight).flatten(1)
        parts = matrix.chunk(2) if kind == "grouped" else [matrix]
        assert {int(torch.linalg.matrix_rank(part)) for part in parts} == {rank}


def test_a_trial_is_fitted_to_the_outputs_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    options = FitOptions(ridges=(0.1,), both=False)
    errors = [error_behind("linear", options, rounds, monkeypatch) for rounds in (0, ROUNDS)]
    assert errors[0] == errors[1]


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


@pytest.mark.parametrize("intercept", [True, False])
def test_other_targets_are_fitted_as_if_they_were_the_first(intercept: bool) -> None:
    _, _, case, weight = reduced("grouped")
    summed = sum_rows(*reach(case, weight))
    assert summed is not None
    both = summed.fitting + summed.validation
    prior = normal(*both.py.mT.shape, seed=4)
    wanted = solution(both, prior, intercept, 0.1)
    found = Refit(both, prior, intercept, 0.1).fit(both.y, both.py)
    torch.testing.assert_close(found[0], wanted.weight)
    torch.testing.assert_close(found[1], wanted.bias)
