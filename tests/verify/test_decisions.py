"""When two outputs count as the same decision, by kind of output."""

from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxprune.errors import UnsupportedError
from fxprune.verify.decisions import argmax, default, primary, resolve, squared_error, within


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def one_hot(classes: Tensor, count: int) -> Tensor:
    return torch.nn.functional.one_hot(classes, count).float()


# Classes


def test_the_largest_class_decides_whatever_the_scores() -> None:
    reference = torch.tensor([[1.0, 2.0, 0.0], [5.0, 4.0, 3.0], [0.0, 0.1, 0.2]])
    output = torch.tensor([[0.0, 0.1, 0.0], [4.0, 5.0, 3.0], [-9.0, -9.0, -8.0]])
    assert default(reference)(reference, output).tolist() == [True, False, True]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(2, 5), st.integers(0, 100))
def test_classes_are_the_same_where_scores_rank_the_same(n: int, c: int, seed: int) -> None:
    """Any increasing function of the scores decides alike; the opposite scores never do."""
    scores = normal(n, c, seed=seed)
    same = default(scores)
    assert same(scores, 3 * scores.tanh() - 1).all()
    assert not same(scores, -scores).any()


@pytest.mark.parametrize(("wrong", "same"), [(0, True), (1, True), (2, False)])
def test_of_an_images_pixels_a_share_must_agree(wrong: int, same: bool) -> None:
    """(N, C, H, W): 99 of 100 pixels."""
    classes = torch.randint(3, (2, 100), generator=torch.Generator().manual_seed(0))
    other = classes.clone()
    other[1, :wrong] = (other[1, :wrong] + 1) % 3
    reference, output = (one_hot(c, 3).movedim(-1, 1).view(2, 3, 10, 10) for c in (classes, other))
    assert default(reference)(reference, output).tolist() == [True, same]


def test_of_tokens_the_last_axis_holds_the_classes() -> None:
    """(N, T, C); one wrong of ten tokens is too many at 0.99, and enough at 0.9."""
    classes = torch.arange(20).view(2, 10) % 7
    other = classes.clone()
    other[0, 3] = 0
    reference, output = one_hot(classes, 7), one_hot(other, 7)
    assert default(reference)(reference, output).tolist() == [False, True]
    assert argmax(dim=-1, share=0.9)(reference, output).tolist() == [True, True]
    assert argmax(dim=-1, share=0.91)(reference, output).tolist() == [False, True]


def test_one_position_per_example_has_no_share() -> None:
    reference, output = one_hot(torch.tensor([0, 1]), 3), one_hot(torch.tensor([0, 2]), 3)
    assert argmax(share=0.0)(reference, output).tolist() == [True, False]
    one_pixel = reference[..., None, None], output[..., None, None]
    assert argmax(share=0.0)(*one_pixel).tolist() == [True, False]


# Regression


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 1, 1)])
def test_numbers_may_differ_by_a_twentieth(shape: tuple[int, ...]) -> None:
    reference = torch.tensor([100.0, -100.0, 100.0]).view(shape)
    output = torch.tensor([104.9, -104.9, 105.1]).view(shape)
    assert default(reference)(reference, output).tolist() == [True, True, False]
    assert within(0.06)(reference, output).all()


def test_tolerance_is_of_each_examples_own_norm() -> None:
    reference = torch.tensor([[1.0, 0.0], [100.0, 0.0]])
    output = reference + torch.tensor([0.0, 1.0])
    assert within(0.05)(reference, output).tolist() == [False, True]


def test_zero_is_only_like_zero() -> None:
    reference = torch.zeros(2, 1)
    assert within()(reference, torch.tensor([[0.0], [1e-30]])).tolist() == [True, False]


# Not a number


def test_numbers_that_are_none_never_agree() -> None:
    """Neither when the output is NaN nor when the reference is, even if both are."""
    good, bad = torch.tensor([[1.0]]), torch.tensor([[torch.nan]])
    for reference, output in ((good, bad), (bad, good), (bad, bad)):
        assert not default(reference)(reference, output).any()


def test_class_scores_that_are_no_numbers_count_as_the_largest() -> None:
    """As torch has it: such a class is the decision; an output of NaN decides for the first."""
    reference = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    output = torch.full((2, 2), torch.nan)
    assert default(reference)(reference, output).tolist() == [False, True]
    output = torch.tensor([[0.0, torch.nan], [0.0, torch.nan]])
    assert default(reference)(reference, output).tolist() == [True, False]


def test_infinite_errors_are_none_to_compare() -> None:
    infinite = torch.tensor([[torch.inf]])
    assert not within()(infinite, infinite).any()
    assert not within()(torch.ones(1, 1), infinite).any()


# What of an output decides


@dataclass
class ModelOutput:
    loss: Tensor
    logits: Tensor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: {"aux": -t, "logits": t},
        lambda t: OrderedDict(aux=-t, logits=t),
        lambda t: SimpleNamespace(aux=-t, logits=t),
        lambda t: ModelOutput(-t, t),
    ],
    ids=["dict", "ordered", "namespace", "dataclass"],
)
def test_logits_decide_where_there_are_any(wrap) -> None:  # type: ignore[no-untyped-def]
    reference, output = normal(4, 3), normal(4, 3, seed=1)
    assert primary(wrap(reference)) is reference
    assert torch.equal(
        resolve(None, wrap(reference))(wrap(reference), wrap(output)),
        default(reference)(reference, output),
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: (t, -t),
        lambda t: [torch.arange(4), t],
        lambda t: {"indices": torch.arange(4), "out": t},
        lambda t: (torch.tensor(0.5), {"nested": [t]}),
        lambda t: {"logits": None, "out": t},
    ],
    ids=["tuple", "integers first", "dict", "scalar first", "logits are none"],
)
def test_else_the_first_floating_tensor_with_examples(wrap) -> None:  # type: ignore[no-untyped-def]
    scores = normal(4, 3)
    assert primary(wrap(scores)) is scores


@pytest.mark.parametrize(
    "output", [torch.tensor(1.5), torch.arange(3), None, (), {"logits": 3}], ids=str
)
def test_an_output_with_nothing_to_compare_is_an_error(output: object) -> None:
    """A tensor without dimensions has no examples."""
    with pytest.raises(UnsupportedError, match="no floating tensor to compare"):
        resolve(None, output)


def test_the_callers_decision_is_taken() -> None:
    def never(reference: Tensor, output: Tensor) -> Tensor:
        return torch.zeros(len(reference), dtype=torch.bool)

    assert resolve(never, normal(2, 2)) is never
    with pytest.raises(UnsupportedError, match="decision is a float"):
        resolve(0.5, normal(2, 2))  # type: ignore[arg-type]


# How far apart


def test_error_is_relative_to_what_classes_differ_by() -> None:
    """The norm is about the mean of each example's scores: a shift of all of them says nothing."""
    reference, output = normal(4, 3), normal(4, 3, seed=1)
    error, norm = squared_error(reference, output)
    assert error == pytest.approx(float((reference - output).square().sum()))
    assert norm == pytest.approx(float(torch.var(reference, 1, correction=0).sum()) * 3)
    assert squared_error(reference + 10, output + 10)[1] == pytest.approx(norm, rel=1e-4)


def test_single_numbers_are_relative_to_their_size() -> None:
    assert squared_error(torch.tensor([[3.0], [4.0]]), torch.tensor([[3.0], [5.0]])) == (1.0, 25.0)
