"""Rules: when two tensors of an output count as the same decision."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxprune.errors import UnsupportedError
from fxprune.verify.decisions import (
    Custom,
    argmax,
    check_result,
    close,
    multilabel,
    next_token,
    sign,
)
from fxprune.verify.named_rules import RULES, parse_rule
from tests.tensors import normal


def one_hot(classes: Tensor, count: int) -> Tensor:
    return torch.nn.functional.one_hot(classes, count).float()


# Classes


def test_the_largest_class_decides_whatever_the_scores() -> None:
    reference = torch.tensor([[1.0, 2.0, 0.0], [5.0, 4.0, 3.0], [0.0, 0.1, 0.2]])
    output = torch.tensor([[0.0, 0.1, 0.0], [4.0, 5.0, 3.0], [-9.0, -9.0, -8.0]])
    assert argmax()(reference, output).tolist() == [True, False, True]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(2, 5), st.integers(0, 100))
def test_classes_are_the_same_where_scores_rank_the_same(n: int, c: int, seed: int) -> None:
    """Any increasing function of the scores decides alike; the opposite scores never do."""
    scores = normal(n, c, seed=seed)
    assert argmax()(scores, 3 * scores.tanh() - 1).all()
    assert not argmax()(scores, -scores).any()


@pytest.mark.parametrize(("wrong", "same"), [(0, True), (1, True), (2, False)])
def test_of_an_images_pixels_a_share_must_agree(wrong: int, same: bool) -> None:
    """(N, C, H, W): 99 of 100 pixels."""
    classes = torch.randint(3, (2, 100), generator=torch.Generator().manual_seed(0))
    other = classes.clone()
    other[1, :wrong] = (other[1, :wrong] + 1) % 3
    reference, output = (one_hot(c, 3).movedim(-1, 1).view(2, 3, 10, 10) for c in (classes, other))
    assert argmax()(reference, output).tolist() == [True, same]


def test_the_axis_and_the_share_are_the_callers() -> None:
    """One wrong of ten tokens is too many at 0.99, and enough at 0.9."""
    classes = torch.arange(20).view(2, 10) % 7
    other = classes.clone()
    other[0, 3] = 0
    reference, output = one_hot(classes, 7), one_hot(other, 7)
    assert argmax(dim=-1)(reference, output).tolist() == [False, True]
    assert argmax(dim=-1, share=0.9)(reference, output).tolist() == [True, True]
    assert argmax(dim=-1, share=0.91)(reference, output).tolist() == [False, True]
    assert str(argmax(dim=-1, share=0.9).settle(reference)) == (
        "largest class along axis 2 on at least 90 % of the positions (argmax)"
    )


def test_one_position_per_example_has_no_share() -> None:
    reference, output = one_hot(torch.tensor([0, 1]), 3), one_hot(torch.tensor([0, 2]), 3)
    assert argmax(share=0.0)(reference, output).tolist() == [True, False]
    one_pixel = reference[..., None, None], output[..., None, None]
    assert argmax(share=0.0)(*one_pixel).tolist() == [True, False]
    assert str(argmax().settle(reference)) == "largest class along axis 1 (argmax)"


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 1, 8, 8), (4, 5, 1)])
def test_one_class_is_never_an_argmax(shape: tuple[int, ...]) -> None:
    """It would always agree."""
    with pytest.raises(UnsupportedError, match="two or more classes"):
        argmax(dim=-1 if len(shape) == 3 else None).settle(normal(*shape))


def test_the_axis_of_three_is_asked_for_where_values_leave_it_open() -> None:
    with pytest.raises(
        UnsupportedError, match=r'\(N, 5, 6\): .*argmax\(dim=1\)" or decision="argmax\(dim=2'
    ):
        argmax().settle(normal(8, 5, 6))
    tokens = normal(8, 5, 6).mul(9).softmax(2)
    assert argmax().settle(tokens) == argmax(dim=2)
    assert argmax().settle(tokens.mT) == argmax(dim=1)


# Sides


def test_a_binary_logit_decides_by_its_sign() -> None:
    reference, output = torch.tensor([2.0, -3.0, 0.1]), torch.tensor([0.1, -9.0, -0.1])
    for shape in ((3,), (3, 1), (3, 1, 1)):
        pair = reference.view(shape), output.view(shape)
        assert sign()(*pair).tolist() == [True, True, False]
    assert str(sign().settle(reference)) == "same side of 0 (sign)"


def test_a_probability_decides_by_a_half() -> None:
    """By its sign it would always agree."""
    reference, output = torch.tensor([[0.9], [0.2]]), torch.tensor([[0.4], [0.1]])
    settled = sign().settle(reference)
    assert str(settled) == "same side of 0.5 (sign)"
    assert settled(reference, output).tolist() == sign()(reference, output).tolist()
    assert settled(reference, output).tolist() == [False, True]


def test_of_a_mask_most_pixels_must_agree() -> None:
    reference = normal(2, 1, 10, 10)
    output = reference.clone()
    output[0, 0, 0, :1] *= -1
    output[1, 0, 0, :2] *= -1
    assert sign()(reference, output).tolist() == [True, False]


def test_every_label_must_agree() -> None:
    reference = torch.tensor([[3.0, -2.0, 1.0]] * 2)
    output = torch.tensor([[1.0, -1.0, 9.0], [1.0, 1.0, 9.0]])
    assert multilabel()(reference, output).tolist() == [True, False]
    scores = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    assert multilabel()(scores, scores + 0.2).tolist() == [True, False]
    assert multilabel(threshold=0.8)(scores, scores.flip(1)).tolist() == [False, True]


# Regression


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 1, 1)])
def test_numbers_may_differ_by_a_twentieth(shape: tuple[int, ...]) -> None:
    reference = torch.tensor([100.0, -100.0, 100.0]).view(shape)
    output = torch.tensor([104.9, -104.9, 105.1]).view(shape)
    assert close()(reference, output).tolist() == [True, True, False]
    assert close(tolerance=0.06)(reference, output).all()
    assert str(close(0.06)) == "relative error at most 6 % per example (close)"


def test_tolerance_is_of_each_examples_own_norm() -> None:
    reference = torch.tensor([[1.0, 0.0], [100.0, 0.0]])
    output = reference + torch.tensor([0.0, 1.0])
    assert close()(reference, output).tolist() == [False, True]


def test_zero_is_only_like_zero() -> None:
    reference = torch.zeros(2, 1)
    assert close()(reference, torch.tensor([[0.0], [1e-30]])).tolist() == [True, False]


# Not a number


@pytest.mark.parametrize("name", RULES)
def test_what_is_no_number_never_agrees(name: str) -> None:
    """Neither when the output is NaN nor when the reference is, even if both are."""
    good, bad = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, torch.nan]])
    everything = torch.full((1, 2), torch.nan)
    rule = RULES[name]()
    for reference, output in ((good, bad), (bad, good), (bad, bad), (good, everything)):
        assert not rule(reference, output).any()
    assert rule(good, good).all()


def test_infinite_errors_are_none_to_compare() -> None:
    infinite = torch.tensor([[torch.inf]])
    assert not close()(infinite, infinite).any()
    assert not close()(torch.ones(1, 1), infinite).any()


# Names and arguments


def test_rules_by_name() -> None:
    assert [parse_rule(name) for name in RULES] == [
        argmax(),
        next_token(),
        sign(),
        multilabel(),
        close(),
    ]
    assert parse_rule(" argmax( dim=2, share=0.95 )") == argmax(2, 0.95)
    assert parse_rule("close(tolerance=0.1)") == close(0.1)


@pytest.mark.parametrize(
    "text",
    ["", "max", "argmax(", "argmax(axis=1)", "argmax(2)", "close(tolerance=x)", "close(1)(2)"],
)
def test_no_such_rule(text: str) -> None:
    with pytest.raises(UnsupportedError, match="^decision="):
        parse_rule(text)


@pytest.mark.parametrize(
    "make",
    [
        lambda: argmax(dim=1.5),  # type: ignore[arg-type]
        lambda: argmax(dim=True),
        lambda: argmax(share=1.1),
        lambda: argmax(share=float("nan")),
        lambda: close(tolerance=-0.1),
        lambda: close(tolerance="a"),  # type: ignore[arg-type]
        lambda: close(tolerance=float("inf")),
        lambda: sign(threshold=float("nan")),
    ],
)
def test_arguments_are_checked(make: Any) -> None:
    with pytest.raises(UnsupportedError, match="number"):
        make()


# The caller's own


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (torch.ones(4, 3, dtype=torch.bool), r"shape \(4, 3\)"),
        (torch.ones(4, 1, dtype=torch.bool), r"shape \(4, 1\)"),
        (torch.ones(3, dtype=torch.bool), r"shape \(3,\)"),
        (torch.tensor(True), r"shape \(\)"),
        (torch.tensor([0, 1, 2, 1]), "other values than 0 and 1"),
        (torch.tensor([0.2, 0.9, 1.0, 1.0]), "other values than 0 and 1"),
        (torch.tensor([1.0, torch.nan, 1.0, 1.0]), "other values than 0 and 1"),
        (torch.tensor([1.0, torch.inf, 1.0, 1.0]), "other values than 0 and 1"),
        (torch.ones(4, dtype=torch.complex64), "other values than 0 and 1"),
        (True, "gave a bool"),
        (None, "gave a NoneType"),
        ([True] * 4, "gave a list"),
        (0.97, "gave a float"),
        (np.array(["a"] * 4), "gave a ndarray"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_a_callers_function_may_not_give(result: Any, why: str) -> None:
    with pytest.raises(UnsupportedError, match=why):
        check_result(result, 4, Custom(lambda a, b: result))


@pytest.mark.parametrize(
    "result",
    [
        torch.tensor([True, False]),
        torch.tensor([1, 0]),
        torch.tensor([1.0, 0.0]),
        np.array([True, False]),
    ],
)
def test_what_a_callers_function_may_give(result: Any) -> None:
    assert check_result(result, 2, close()).tolist() == [True, False]


def test_an_error_in_a_callers_function_says_whose_it_is() -> None:
    def broken(reference: Any, output: Any) -> Tensor:
        raise KeyError("boxes")

    with pytest.raises(UnsupportedError, match=r"decision=broken: it raised KeyError: 'boxes'"):
        Custom(broken)(None, None)
