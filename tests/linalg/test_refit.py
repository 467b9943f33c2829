"""The refit against least squares."""

import numpy as np
import torch
from torch import Tensor

from fxprune.linalg.refit import RIDGES, refit, solution
from fxprune.linalg.regression_sums import RegressionSums
from tests.linalg import matrices


def sums(p: Tensor, y: Tensor) -> RegressionSums:
    """Of one group."""
    return matrices.sums(p[None], y[None])


def test_refit_recovers_a_linear_map_with_intercept() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(400, 6, generator=generator, dtype=torch.float64) + 1.5
    w, b = (
        torch.randn(3, 6, generator=generator, dtype=torch.float64),
        torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64),
    )
    y = p @ w.T + b
    found = refit(
        sums(p[:300], y[:300]),
        sums(p[300:], y[300:]),
        torch.zeros(1, 3, 6, dtype=torch.float64),
        intercept=True,
    )
    torch.testing.assert_close(found.weight[0], w, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.bias[0], b, atol=1e-5, rtol=0)
    assert found.ridge == min(RIDGES)


def test_refit_matches_the_ridge_solution_of_lstsq() -> None:
    generator = torch.Generator().manual_seed(2)
    p, y = (torch.randn(60, n, generator=generator, dtype=torch.float64) for n in (8, 2))
    prior = torch.randn(1, 2, 8, generator=generator, dtype=torch.float64)
    found = refit(sums(p[:40], y[:40]), sums(p[40:], y[40:]), prior, intercept=False)
    energy = p.square().sum(0)
    stacked = torch.cat([p, torch.diag((found.ridge * energy).sqrt())])
    target = torch.cat([y, (found.ridge * energy).sqrt()[:, None] * prior[0].T])
    wanted = np.linalg.lstsq(stacked.numpy(), target.numpy(), rcond=None)[0].T
    np.testing.assert_allclose(found.weight[0].numpy(), wanted, atol=1e-8)


def test_refit_is_never_worse_on_held_out_rows_than_the_prior() -> None:
    generator = torch.Generator().manual_seed(1)
    p, noise, w = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((30, 25), (30, 2), (2, 25))
    )
    y = p @ w.T + 3 * noise
    train, held_out = sums(p[:20], y[:20]), sums(p[20:], y[20:])
    ridge = refit(train, held_out, w[None], intercept=False).ridge
    assert held_out.residual(solution(train, w[None], False, ridge).weight) <= held_out.residual(
        w[None]
    )
