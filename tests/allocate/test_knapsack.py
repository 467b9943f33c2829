"""One choice per layer under limits: the best there is."""

import itertools

import numpy as np
import pytest

from fxprune.allocate.knapsack import Choices, allocate_choices
from fxprune.plans.factoring import Factoring


def offered(seed: int) -> list[Choices]:
    generator = np.random.default_rng(seed)
    result = []
    for layer in range(4):
        costs = np.append(0.25, np.linspace(0.03, 0.21, 6) * generator.uniform(0.8, 1.1))[:, None]
        errors = np.append(0.0, np.sort(generator.exponential(size=6))[::-1])
        result.append(Choices(f"{layer}", tuple(Factoring(r) for r in range(1, 7)), costs, errors))
    return result


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limit", [0.3, 0.5, 0.8])
def test_ranks_are_the_best_under_the_limit(seed: int, limit: float) -> None:
    """Against all combinations: the smallest maximum exactly, the smallest sum up to one step of
    the most uneven layer.
    """
    layers = offered(seed)
    every = [
        c
        for c in itertools.product(range(7), repeat=4)
        if sum(x.costs[i, 0] for x, i in zip(layers, c, strict=True)) <= limit
    ]
    for minimax in (True, False):
        how = allocate_choices(layers, np.zeros(1), {"params": limit}, minimax)
        picks = [1 + x.factorings.index(how[x.weight]) if x.weight in how else 0 for x in layers]
        assert tuple(picks) in every
        found = [x.errors[i] for x, i in zip(layers, picks, strict=True)]
        merit = max if minimax else sum
        best = min(merit([x.errors[i] for x, i in zip(layers, c, strict=True)]) for c in every)
        steps = max(float(-np.diff(x.errors[1:]).min()) for x in layers)
        assert best - 1e-12 <= merit(found) <= best + (1e-12 if minimax else steps)


def test_a_limit_with_room_costs_nothing() -> None:
    """Two limits are not worse than the binding one alone."""
    layers = offered(0)
    both = [
        Choices(c.weight, c.factorings, np.hstack([c.costs, c.costs[::-1] / 50]), c.errors)
        for c in layers
    ]
    alone = allocate_choices(layers, np.zeros(1), {"params": 0.5}, minimax=False)
    together = allocate_choices(both, np.zeros(2), {"params": 0.5, "flops": 1.0}, minimax=False)
    errors = [
        sum(
            float(c.errors[1 + c.factorings.index(how[c.weight])])
            for c in layers
            if c.weight in how
        )
        for how in (together, alone)
    ]
    assert errors[0] <= errors[1]
