"""Interpolations of removed channels folded into the weights that read them, against NumPy's least
squares.
"""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fxprune.calibrate.strata import contract, pair_strata, strata
from fxprune.fit.fold import Folds
from tests.fit.reductions import Recorded, record
from tests.tensors import distance, normal

LSTSQ = 1e-7
"""Normal equations lose half the digits that NumPy's decomposition keeps."""


def recorded(*layers: nn.Module, inputs: tuple[int, ...], share: float) -> Recorded:
    torch.manual_seed(0)
    return record(nn.Sequential(*layers).double(), normal(200, *inputs), share)


def folded(case: Recorded, ridged: bool = False) -> Folds:
    reduction = case.reduction
    return Folds(reduction.original, reduction.analysis, reduction.keep_mask, case.moments, ridged)


def rebuilt(channels: Tensor, kept: slice) -> Tensor:
    """T with channels ~ channels[:, kept] T, by NumPy."""
    columns = channels.detach().numpy()
    return torch.from_numpy(np.linalg.lstsq(columns[:, kept], columns, rcond=None)[0])


def test_a_linear_consumer_is_the_least_squares_fit() -> None:
    first, second = nn.Linear(6, 10), nn.Linear(10, 4)
    case = recorded(first, nn.ReLU(), second, inputs=(6,), share=0.6)
    hidden = torch.relu(first(normal(200, 6)))
    expected = second.weight @ rebuilt(hidden, slice(6)).T
    assert distance(expected.detach(), folded(case)["2.weight"]) <= LSTSQ


def test_axes_that_a_consumer_produces_are_sliced() -> None:
    first, second, third = nn.Linear(6, 10), nn.Linear(10, 8), nn.Linear(8, 3)
    case = recorded(first, nn.ReLU(), second, nn.Tanh(), third, inputs=(6,), share=0.5)
    hidden = torch.relu(first(normal(200, 6)))
    behind = torch.tanh(second(hidden))
    found = folded(case)
    assert found.keys() == {"2.weight", "4.weight"}
    expected = second.weight[:4] @ rebuilt(hidden, slice(5)).T
    assert distance(expected.detach(), found["2.weight"]) <= LSTSQ
    expected = third.weight @ rebuilt(behind, slice(4)).T
    assert distance(expected.detach(), found["4.weight"]) <= LSTSQ


def test_groups_of_a_convolution_are_fitted_apart() -> None:
    first, second = nn.Conv2d(4, 12, 1), nn.Conv2d(12, 6, 3, groups=2)
    case = recorded(first, nn.ReLU(), second, inputs=(4, 4, 5), share=0.5)
    pixels = torch.relu(first(normal(200, 4, 4, 5))).movedim(1, -1).reshape(-1, 12)
    expected = torch.cat(
        [
            torch.einsum("onyx,kn->okyx", weight, rebuilt(own, slice(3)))
            for weight, own in zip(second.weight.chunk(2), pixels.chunk(2, 1), strict=True)
        ]
    )
    assert distance(expected.detach(), folded(case)["2.weight"]) <= LSTSQ


def test_a_flattened_channel_is_one_channel_at_every_position() -> None:
    first, second = nn.Conv2d(3, 6, 1), nn.Linear(6 * 4 * 5, 7)
    case = recorded(first, nn.ReLU(), nn.Flatten(), second, inputs=(3, 4, 5), share=0.5)
    pixels = torch.relu(first(normal(200, 3, 4, 5))).movedim(1, -1).reshape(-1, 6)
    weight = second.weight.view(7, 6, 20)
    expected = torch.einsum("onp,kn->okp", weight, rebuilt(pixels, slice(3))).reshape(7, 60)
    assert distance(expected.detach(), folded(case)["3.weight"]) <= LSTSQ


def test_a_ridge_takes_less_of_what_is_kept() -> None:
    case = recorded(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 4), inputs=(6,), share=0.5)
    plain, ridged = (folded(case, ridge)["2.weight"] for ridge in (False, True))
    sliced = case.reduction.tensor("2.weight")
    assert 0 < (ridged - sliced).norm() < (plain - sliced).norm()


def test_nothing_removed_leaves_nothing_to_fold() -> None:
    assert not folded(recorded(nn.Linear(6, 8), nn.Linear(8, 4), inputs=(6,), share=1.0))


def test_strata_of_which_nothing_survives_are_empty() -> None:
    before = strata(np.array([1, 2, 2, 3, 4, 4]))
    after = strata(np.array([1, 3]))
    single, double = pair_strata(before, after)
    assert (single.kept.tolist(), double.kept.tolist()) == ([0, 1], [])
    assert double.after.columns.shape == (0, 2)
    weight = normal(5, 6)
    assert torch.equal(
        contract(weight, 1, [single, double], [np.eye(2), np.zeros((0, 2))]), weight[:, [0, 3]]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_contraction_keeps_the_dtype(dtype: torch.dtype) -> None:
    before, after = strata(np.array([1, 2, 3])), strata(np.array([2]))
    (pair,) = pair_strata(before, after)
    weight = normal(4, 3).to(dtype)
    found = contract(weight, 1, [pair], [np.array([[0.5, 1.0, 2.0]])])
    assert found.dtype == dtype
    torch.testing.assert_close(found, weight @ torch.tensor([[0.5], [1.0], [2.0]], dtype=dtype))
