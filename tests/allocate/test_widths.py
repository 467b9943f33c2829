"""Every allocation keeps the limits, the floors and the multiples, on random problems."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxprune import BudgetError
from fxprune.allocate.balanced import balanced_widths
from fxprune.allocate.paper import iterative_widths
from fxprune.allocate.widths import Widths, scale_widths, uniform_widths, within_limits
from fxprune.profile.removal import Profile


@dataclass(frozen=True)
class Group:
    """A channel group as `Widths` reads it."""

    width: int
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class ChainCosts:
    """A chain of layers: each costs its inputs times its outputs, the ends are fixed."""

    full: np.ndarray

    def flops(self, widths: np.ndarray) -> float:
        chain = np.concatenate([[3.0], np.asarray(widths, dtype=float), [10.0]])
        return float((chain[1:] * chain[:-1]).sum())

    def fractions(self, widths: np.ndarray, names: Iterable[str] = ("flops",)) -> dict[str, float]:
        return {name: self.flops(widths) / self.flops(self.full) for name in names}


@dataclass(frozen=True)
class Random:
    """One problem."""

    valid: Widths
    profiles: list[Profile]
    costs: ChainCosts
    limit: float


@st.composite
def problems(draw: st.DrawFn) -> Random:
    groups = [
        Group(width, (0,) * blocks)
        for width, blocks in draw(
            st.lists(
                st.tuples(st.integers(2, 40), st.sampled_from([1, 1, 2, 4])), min_size=1, max_size=5
            )
        )
    ]
    generator = np.random.default_rng(draw(st.integers(0, 2**20)))
    profiles = []
    for group in groups:
        errors = np.concatenate([[0.0], np.cumsum(generator.random(group.width - 1) ** 3)])
        free = int(generator.integers(0, group.width)) if generator.random() < 0.3 else 0
        order = np.arange(group.width)[None]
        profiles.append(Profile(order, errors, errors[::-1].copy(), free))
    floor = generator.random(len(groups)) * draw(st.sampled_from([0.0, 0.3, 0.9]))
    valid = Widths(groups, profiles, draw(st.sampled_from([1, 4, 8])), floor)  # type: ignore[arg-type]
    costs = ChainCosts(np.array([g.width for g in groups], dtype=float))
    return Random(valid, profiles, costs, draw(st.floats(0.05, 1.0)))


ALLOCATE = {
    "uniform": lambda p, limits: uniform_widths(p.costs, p.valid, limits),
    "balanced": lambda p, limits: balanced_widths(p.profiles, p.costs, p.valid, limits),
    "iterative": lambda p, limits: iterative_widths(p.profiles, p.costs, p.valid, limits),
    "half the first": lambda p, limits: scale_widths(
        np.linspace(0.5, 1.0, len(p.valid.full)), p.costs, p.valid, limits
    ),
}


@pytest.mark.parametrize("name", ALLOCATE)
@given(problem=problems())
@settings(max_examples=60, deadline=None)
def test_limits_floors_and_multiples_hold(name: str, problem: Random) -> None:
    limits, valid = {"flops": problem.limit}, problem.valid
    reachable = within_limits(problem.costs, valid.smallest, limits)  # type: ignore[arg-type]
    if not reachable and not within_limits(problem.costs, valid.largest, limits):  # type: ignore[arg-type]
        with pytest.raises(BudgetError, match="cannot be reached"):
            ALLOCATE[name](problem, limits)
        return
    widths = ALLOCATE[name](problem, limits)
    assert within_limits(problem.costs, widths, limits)  # type: ignore[arg-type]
    assert (widths >= 1).all()
    assert (widths <= valid.full).all()
    assert (widths >= valid.floor).all()
    if name != "balanced":  # a shape that is scaled afterwards
        step = np.maximum(valid.step // valid.blocks, 1)
        assert ((widths % step == 0) | (widths == valid.largest) | (widths == valid.full)).all()


@given(problem=problems())
@settings(max_examples=40, deadline=None)
def test_a_larger_budget_never_narrows_uniform_widths_together(problem: Random) -> None:
    small, large = {"flops": problem.limit}, {"flops": min(1.0, 1.3 * problem.limit)}
    try:
        fewer = uniform_widths(problem.costs, problem.valid, small)  # type: ignore[arg-type]
    except BudgetError:
        return
    more = uniform_widths(problem.costs, problem.valid, large)  # type: ignore[arg-type]
    assert problem.costs.flops(more) >= problem.costs.flops(fewer) * (1 - 1e-9) or (
        problem.valid.step.max() > 1
    )


def test_redundant_channels_are_never_kept() -> None:
    errors = np.array([0.0, 0.0, 1.0, 2.0])
    profile = Profile(np.arange(4)[None], errors, errors, free=2)
    valid = Widths([Group(4, (0,))], [profile])  # type: ignore[list-item]
    widths = uniform_widths(ChainCosts(np.array([4.0])), valid, {"flops": 1.0})  # type: ignore[arg-type]
    assert widths.tolist() == [2]
