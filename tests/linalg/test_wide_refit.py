"""The refit in dual variables against the one in primal variables."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fxprune.linalg.refit import refit, solution
from fxprune.linalg.wide_refit import WideRows, refit_wide
from tests.linalg.matrices import sums

VALIDATES = torch.arange(30) % 5 == 0


def problem(noise: float = 4.0) -> tuple[Tensor, Tensor, Tensor]:
    """Features (2, 30, 40), targets (2, 30, 3), and a prior (2, 3, 40) near the truth."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    p, w = normal(2, 30, 40) * (1 + torch.arange(40)) / 20 + 3, normal(2, 3, 40)
    y = p @ w.mT + noise * normal(2, 30, 3) + torch.tensor([1.0, -2.0, 5.0])
    return p, y, w + 0.3 * normal(2, 3, 40)


def wide(p: Tensor, y: Tensor, validates: Tensor = VALIDATES) -> WideRows:
    """The rows, with features in blocks of 7 in another order."""
    order = torch.arange(p.shape[2]).flip(0)

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        for index in order.split(7):
            yield index, p[..., index]

    return WideRows(p.shape[2], blocks, y, validates)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("ridge", [1e-6, 0.1, 3.0])
@pytest.mark.parametrize("both", [True, False])
def test_both_variables_have_the_same_minimum(
    intercept: bool, ridge: float, both: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, y, prior = problem(noise=0.1)
    for module in ("refit", "wide_refit"):
        monkeypatch.setattr(f"fxprune.linalg.{module}.START", ridge)
    rows = torch.ones(30, dtype=torch.bool) if both else ~VALIDATES
    wanted = solution(sums(p[:, rows], y[:, rows]), prior, intercept, ridge)
    found = refit_wide(wide(p, y), prior, intercept, None, (ridge,), both)
    assert found.ridge == ridge
    torch.testing.assert_close(found.weight, wanted.weight, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.bias, wanted.bias, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("both", [True, False])
def test_where_no_ridge_helps_the_prior_stays(both: bool) -> None:
    p, _, prior = problem()
    noise = torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(1)).double()
    y = p @ prior.mT + noise
    train, held_out = (sums(p[:, rows], y[:, rows]) for rows in (~VALIDATES, VALIDATES))
    rows = torch.ones(30, dtype=torch.bool) if both else ~VALIDATES
    shift = (y - p @ prior.mT)[:, rows].mean(1)
    for found in (
        refit_wide(wide(p, y), prior, True, None, (0.1,), both),
        refit(train, held_out, prior, True, None, (0.1,), both),
    ):
        assert found.ridge == float("inf")
        assert torch.equal(found.weight, prior)
        torch.testing.assert_close(found.bias, shift)


def test_fits_that_are_only_tried_see_no_row_that_validates() -> None:
    p, y, prior = problem(noise=0.1)
    train, held_out = (sums(p[:, rows], y[:, rows]) for rows in (~VALIDATES, VALIDATES))
    wanted = solution(train, prior, True, 0.1)
    found = refit(train, held_out, prior, True, None, (0.1,), both=False)
    assert found.ridge == 0.1
    torch.testing.assert_close(found.weight, wanted.weight, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("intercept", [True, False])
def test_the_same_ridge_is_chosen_to_one_step(intercept: bool) -> None:
    """Energies are those of all rows here, and of the fitted ones there."""
    p, y, prior = problem()
    train, held_out = (sums(p[:, rows], y[:, rows]) for rows in (~VALIDATES, VALIDATES))
    wanted = refit(train, held_out, prior, intercept)
    found = refit_wide(wide(p, y), prior, intercept)
    assert wanted.ridge < float("inf")
    assert wanted.ridge / 4 <= found.ridge <= wanted.ridge * 4


def test_rows_that_no_fit_has_seen_choose_the_ridge() -> None:
    """Targets of noise: whatever is fitted to them errs more on other rows than the prior."""
    p, _, _ = problem()
    noise = torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(1)).double()
    prior = torch.zeros(2, 3, 40, dtype=torch.float64)
    found = refit_wide(wide(p, noise), prior, intercept=True)
    small = solution(sums(p, noise), prior, True, 1e-6)
    assert found.ridge >= 0.1
    assert float(found.weight.norm()) < 0.5 * float(small.weight.norm())


def test_the_unseen_prior_stands_in_while_the_ridge_is_chosen() -> None:
    p, y, prior = problem()
    truth = sums(p, y)
    good = solution(truth, prior, True, 1e-8).weight
    # A prior that saw the rows leaves nothing to repair; one that did not shows what the ridge is.
    assert refit_wide(wide(p, y), good, True).ridge == float("inf")
    assert refit_wide(wide(p, y), good, True, unseen=prior).ridge < float("inf")


def test_moments_of_the_outputs_are_those_of_the_sums() -> None:
    p, y, prior = problem()
    for rows, both in ((slice(None), True), (~VALIDATES, False)):
        wanted = sums(p[:, rows], y[:, rows]).outputs(prior)
        torch.testing.assert_close(wide(p, y).outputs(prior, both), wanted)
