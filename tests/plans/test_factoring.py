"""How a layer's weight folds into matrices and their factors become two weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxprune.errors import PlanError
from fxprune.linalg import svd
from fxprune.plans.factoring import Factoring
from tests.tensors import EXACT, distance, normal


@st.composite
def foldings(draw: st.DrawFn) -> tuple[tuple[int, ...], Factoring]:
    groups, encoders = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    shape = (groups * draw(st.integers(1, 4)), encoders * draw(st.integers(1, 4)), *kernel)
    how = Factoring(1, groups, encoders, bool(kernel) and draw(st.booleans()))
    return shape, Factoring(
        draw(st.integers(1, how.largest(shape))), groups, encoders, how.separable
    )


@settings(max_examples=100, deadline=None)
@given(foldings())
def test_factors_merge_back(folding: tuple[tuple[int, ...], Factoring]) -> None:
    shape, how = folding
    first, second = how.weights(*svd.factor(how.fold(normal(*shape)), how.rank), shape)
    assert (first.numel(), second.numel()) == how.sizes(shape)
    merged_back = how.merge(first, second, shape)
    assert int(torch.linalg.matrix_rank(how.fold(merged_back)).max()) <= how.rank
    if how.rank == how.largest(shape):
        assert distance(normal(*shape), merged_back) <= EXACT


def test_factors_of_another_shape_are_an_error() -> None:
    with pytest.raises(PlanError, match="are not the factors of"):
        Factoring(2).merge(torch.ones(3, 4), torch.ones(5, 3), (5, 4))
    with pytest.raises(PlanError, match="rank is a whole number"):
        Factoring(0)
