"""No group stands in two parts; where each example is its own, the draw is by example."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxprune.calibrate.split import EVERY_PART, draw_split, split_examples
from fxprune.errors import BudgetError
from fxprune.plans.budget import Budget


def parts_of(split: object) -> dict[str, np.ndarray]:
    return {name: split.part(name) for name in EVERY_PART} | {"held": split.held_out}  # type: ignore[attr-defined]


@given(st.lists(st.integers(1, 30), min_size=5, max_size=40), st.integers(0, 5))
def test_no_group_stands_in_two_parts(sizes: list[int], seed: int) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    split = draw_split(groups, Budget(flops=0.5), seed)
    parts = parts_of(split)
    assert (np.sum(list(parts.values()), axis=0) == 1).all()
    members = [set(groups[mask].tolist()) for mask in parts.values()]
    assert sum(map(len, members)) == len(sizes)
    if split.fitting >= 5 and len(sizes) >= 6:
        assert parts["validation"].any()


def test_without_groups_the_draw_is_that_of_examples() -> None:
    own = split_examples(300, 60, seed=3, groups=np.arange(300))
    plain = split_examples(300, 60, seed=3)
    chosen = np.random.default_rng(3).permutation(300)[:60]
    assert set(np.flatnonzero(plain.held_out)) == set(chosen.tolist())
    assert np.array_equal(own.held_out, plain.held_out)
    assert np.array_equal(own.order, plain.order)
    assert plain.independent == 60


def test_one_fitting_group_is_cut_after_all() -> None:
    split = draw_split(np.repeat([0, 1], 50), Budget(flops=0.5), 0)
    assert split.fitting == split.held_out.sum() == 50
    assert split.part("validation").sum() == 10


def test_agreement_counts_groups() -> None:
    with pytest.raises(BudgetError, match="needs 299 held-out groups .*; 20 calibration groups"):
        draw_split(np.repeat(np.arange(20), 50), Budget(agreement=0.99), 0)
    split = draw_split(np.repeat(np.arange(500), 3), Budget(agreement=0.99), 0)
    assert split.independent == pytest.approx(319)


@given(st.integers(0, 20))
def test_groups_of_many_sizes_leave_enough_to_certify(seed: int) -> None:
    sizes = 1 + np.random.default_rng(seed).poisson(2, 900)
    split = draw_split(np.repeat(np.arange(900), sizes), Budget(agreement=0.99), seed)
    assert split.independent >= 299
