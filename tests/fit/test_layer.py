"""One layer fitted from what reaches it to what the original gave."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmarks.models.nets import trained
from fxprune.calibrate.recording import VALIDATION
from fxprune.calibrate.spill import Spill
from fxprune.demo.data import load
from fxprune.fit.execution import Execution
from fxprune.fit.factor import factorize_layers
from fxprune.fit.layer import FitOptions, as_matrices, fit_layer, to_weight
from fxprune.fit.lockstep import order_layers
from fxprune.fit.row_sums import sum_rows
from fxprune.fit.wide import gather_rows
from fxprune.label.layers import Layer
from fxprune.linalg.refit import EXACT, solution
from fxprune.linalg.wide_refit import refit_wide
from fxprune.plans.factoring import Factoring
from tests.fit.reductions import Recorded, record
from tests.tensors import distance, normal

RESTORED = math.sqrt(EXACT)
"""Relative difference below which a fit counts as exact, whatever its ridge."""


def network(*layers: nn.Module) -> nn.Sequential:
    """Layers, which may have been made at any time, with weights that are always the same."""
    net = copy.deepcopy(nn.Sequential(*layers))
    torch.manual_seed(0)
    for layer in net:
        if isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
            layer.reset_parameters()
    return net.double().eval()


def reach(case: Recorded, weight: str) -> tuple[Layer, Execution]:
    """A layer of a case, and the execution up to its first call."""
    order, layers = order_layers(case.reduction.original)
    (layer,) = (layer for layer in layers.values() if layer.weight == weight)
    execution = Execution(case.reduction, order, case.recording, case.recording.chunks)
    before = order[: order.index(layer.node)]
    with torch.no_grad():
        execution.run([node for node in before if node.op == "call_function"])
    return layer, execution


def fit(case: Recorded, weight: str, options: FitOptions | None = None) -> float | str:
    return fit_layer(*reach(case, weight), options or FitOptions())


# From 8 channels that are combinations of 4 (3 of each group of 4), 2 are removed (1 of each).
DEPENDENT: dict[str, tuple[Sequence[nn.Module], tuple[int, ...]]] = {
    "linear": ([nn.Linear(4, 8), nn.Linear(8, 6)], (4,)),
    "linear on tokens": ([nn.Linear(4, 8, bias=False), nn.Linear(8, 6, bias=False)], (5, 4)),
    "1-D": ([nn.Conv1d(4, 8, 1, bias=False), nn.Conv1d(8, 6, 3, stride=2, padding=1)], (4, 9)),
    "2-D": (
        [nn.Conv2d(4, 8, 1, bias=False), nn.Conv2d(8, 6, (3, 2), padding=1, dilation=(1, 2))],
        (4, 5, 6),
    ),
    "grouped": (
        [nn.Conv2d(6, 8, 1, groups=2, bias=False), nn.Conv2d(8, 6, 3, padding="same", groups=2)],
        (6, 5, 6),
    ),
    "3-D": ([nn.Conv3d(4, 8, 1), nn.Conv3d(8, 6, (2, 1, 3))], (4, 4, 3, 5)),
}


@pytest.mark.parametrize("kind", DEPENDENT)
def test_channels_that_follow_from_the_kept_ones_are_restored(kind: str) -> None:
    layers, shape = DEPENDENT[kind]
    model, test = network(*layers), normal(20, *shape, seed=1)
    case = record(model, normal(240, *shape), share=0.75)
    with torch.no_grad():
        expected, before = model(test), case.reduction.reduced(test)
        outcome = fit(case, "1.weight")
        after = case.reduction.reduced(test)
    assert isinstance(outcome, float)
    assert distance(expected, before) > 0.1
    assert distance(expected, after) <= RESTORED


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "mean of the norm behind"])
def test_the_outputs_keep_their_means(bias: bool) -> None:
    """What a least-squares fit with an intercept leaves has no mean, over all the rows it saw."""
    model = network(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 2, bias=bias), nn.BatchNorm2d(6))
    x = normal(100, 3, 4, 4)
    case = record(model, x, share=0.5)
    with torch.no_grad():
        wanted, before = (m(x).mean((0, 2, 3)) for m in (model, case.reduction.reduced))
        fit(case, "2.weight")
        after = case.reduction.reduced(x).mean((0, 2, 3))
    assert distance(wanted, before) > 0.01
    assert distance(wanted, after) <= 1e-9


def test_the_moments_are_those_of_the_layers_own_rows() -> None:
    model = network(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    x = normal(150, 5)
    case = record(model, x, share=0.5)
    layer, execution = reach(case, "2.weight")
    summed = sum_rows(layer, execution)
    assert summed is not None
    with torch.no_grad():
        every_channel, target = model[:2](x), model(x)
    hidden = every_channel[:, :4]
    validates = torch.arange(150) % 5 == 0
    for moments, own in ((summed.fitting, ~validates), (summed.validation, validates)):
        assert moments.count == int(own.sum())
        torch.testing.assert_close(moments.pp[0], hidden[own].T @ hidden[own])
        torch.testing.assert_close(moments.py[0], hidden[own].T @ target[own])
        torch.testing.assert_close(moments.y[0], target[own].sum(0))


def test_examples_set_aside_judge_alone() -> None:
    model = network(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    case = record(model, normal(150, 5), share=0.5)
    case.recording.chunks[1].part = VALIDATION
    summed = sum_rows(*reach(case, "2.weight"))
    assert summed is not None
    assert (summed.fitting.count, summed.validation.count) == (100, 50)


def test_a_trial_is_fitted_to_rows_that_do_not_judge_it() -> None:
    model = network(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    case = record(model, normal(150, 5), share=0.5)
    summed = sum_rows(*reach(case, "2.weight"))
    assert summed is not None
    prior = case.reduction.tensor("2.weight").detach().clone()[None]
    wanted = solution(summed.fitting, prior, True, 0.1)
    assert fit(case, "2.weight", FitOptions(ridges=(0.1,), both=False)) == 0.1
    found = case.reduction.tensor("2.weight").double()
    torch.testing.assert_close(found, wanted.weight[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [150, 3], ids=["more rows", "more unknowns"])
@pytest.mark.parametrize("both", [True, False])
def test_the_rank_is_lowered_either_way(rows: int, both: bool) -> None:
    model = network(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6))
    case = record(model, normal(rows, 5), share=0.5, batch=rows)
    outcome = fit(case, "2.weight", FitOptions(ranks={"2.weight": 2}, ridges=(0.1,), both=both))
    assert isinstance(outcome, float)
    assert int(torch.linalg.matrix_rank(case.reduction.tensor("2.weight"))) == 2


WIDE: dict[str, tuple[list[nn.Module], tuple[int, ...]]] = {
    "linear": ([nn.Linear(5, 40), nn.Tanh(), nn.Linear(40, 3)], (5,)),
    "1-D": ([nn.Conv1d(3, 8, 1), nn.Tanh(), nn.Conv1d(8, 3, 9, padding=4)], (3, 12)),
    "grouped": ([nn.Conv2d(4, 8, 1), nn.Tanh(), nn.Conv2d(8, 4, 5, groups=2)], (4, 6, 5)),
}


@pytest.mark.parametrize("kind", WIDE)
def test_few_rows_give_the_same_fit_in_either_variables(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of the two systems is solved goes by its size, and does not change the minimum."""
    layers, shape = WIDE[kind]
    case = record(network(*layers), normal(9, *shape), share=0.5, batch=3)
    monkeypatch.setattr("fxprune.fit.wide.BLOCK_COLUMNS", 10)
    layer, execution = reach(case, "2.weight")
    wide, sums = gather_rows(layer, execution, None), sum_rows(layer, execution)
    assert wide is not None
    assert sums is not None
    weight = case.reduction.tensor("2.weight")
    prior = torch.zeros_like(as_matrices(weight, wide.targets.shape[0]))
    both = sums.fitting + sums.validation
    assert wide.targets.shape[1] == both.count
    wanted = solution(both, prior, True, 3.0)
    # Whether so few rows are better than nothing is not the question.
    monkeypatch.setattr("fxprune.linalg.wide_refit._choose_ridge", lambda *given: 3.0)
    found = refit_wide(wide, prior, True)
    torch.testing.assert_close(found.weight, wanted.weight, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.bias, wanted.bias, atol=1e-5, rtol=1e-5)


def test_sums_of_a_large_layer_wait_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6))
    case = record(model, normal(150, 5), share=0.5, memory=0.0)
    layer, execution = reach(case, "2.weight")
    wanted, settled = sum_rows(layer, execution), list[torch.Tensor]()

    def watched(value: torch.Tensor) -> torch.Tensor:
        settled.append(place := settle(case.store, value))
        return place

    settle, held = Spill.settle, case.store._held
    monkeypatch.setattr("fxprune.calibrate.spill.SMALL", 0)
    monkeypatch.setattr(case.store, "settle", watched)
    monkeypatch.setattr("fxprune.fit.row_sums.PANEL_ENTRIES", 0)
    found = sum_rows(layer, execution)
    assert settled
    assert case.store._held == held
    assert wanted is not None
    assert found is not None
    for own, other in ((wanted.fitting, found.fitting), (wanted.validation, found.validation)):
        for name in ("p", "y", "pp", "py", "yy"):
            assert torch.equal(getattr(own, name), getattr(other, name))


def test_outputs_whose_labels_are_unknown_leave_a_layer_alone() -> None:
    case = record(network(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6)), normal(150, 5), share=0.5)
    layer, _ = reach(case, "2.weight")
    analysis = case.reduction.analysis
    values = {**analysis.values, layer.node.name: None}
    reduction = replace(case.reduction, analysis=replace(analysis, values=values))
    before = reduction.tensor("2.weight").detach().clone()
    outcome = fit(replace(case, reduction=reduction), "2.weight")
    assert outcome == "its outputs cannot be matched to the original's"
    assert torch.equal(before, reduction.tensor("2.weight"))


@given(st.integers(1, 3), st.lists(st.integers(1, 3), max_size=3))
def test_matrices_become_the_weight_they_were(groups: int, kernel: list[int]) -> None:
    weight = normal(2 * groups, 3, *kernel)
    matrices = as_matrices(weight, groups)
    assert matrices.shape == (groups, 2, 3 * math.prod(kernel))
    assert torch.equal(to_weight(matrices, weight.shape), weight)


def test_no_layer_is_too_wide_for_a_refit(monkeypatch: pytest.MonkeyPatch) -> None:
    """More unknowns than equations that are solved at once: rows make the system."""
    monkeypatch.setattr("fxprune.calibrate.recording.LARGEST_SYSTEM", 60)
    layers = [nn.Conv1d(1, 16, 1), nn.Tanh(), nn.Conv1d(16, 2, 9)]
    model, x, test = network(*layers), normal(60, 1, 20), normal(20, 1, 20, seed=1)
    case = record(model, x, share=0.5)
    with torch.no_grad():
        expected, before = model(test), case.reduction.reduced(test)
        outcome = fit(case, "2.weight")
        after = case.reduction.reduced(test)
    assert isinstance(outcome, float)
    assert sum(chunk.picks["conv1d_1"] for chunk in case.recording.chunks) <= 63
    assert distance(expected, after) < 0.5 * distance(expected, before)


def test_wide_layers_are_truncated_by_their_outputs() -> None:
    net, x, name = trained("mlp"), load().calibration[:200], "layers.1.weight"
    case = record(net, x, share=1.0, batch=200)
    assert isinstance(fit(case, name, FitOptions(ranks={name: 60})), float)
    small, plain = case.reduction.reduced, copy.deepcopy(case.reduction.original)
    assert torch.linalg.matrix_rank(small.get_parameter(name), rtol=1e-5) == 60
    factorize_layers(plain, {name: Factoring(60)})
    with torch.no_grad():
        wanted = net(load().images[:200])
        ours, theirs = (
            float((g(load().images[:200]) - wanted).square().mean()) for g in (small, plain)
        )
    assert ours < theirs
