"""What of structured outputs is judged, by which rules, and what is asked."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fxprune.errors import UnsupportedError
from fxprune.verify.decisions import argmax, close, sign
from fxprune.verify.judge import Decision, check_decision, settle
from fxprune.verify.outputs import (
    OutputErrors,
    floating,
    name_leaves,
    squared_error,
    squared_errors,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classes(*shape: int, seed: int = 0) -> Tensor:
    return normal(*shape, seed=seed).softmax(1)


@dataclass
class ModelOutput:
    loss: Tensor
    logits: Tensor


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


# Names


@pytest.mark.parametrize(
    ("output", "names"),
    [
        (normal(2), ["output"]),
        ({"a": normal(2), "b": [normal(2), None]}, ["a", "b.0", "b.1"]),
        (OrderedDict(a=(normal(2), normal(2))), ["a.0", "a.1"]),
        (ModelOutput(normal(2), normal(2)), ["loss", "logits"]),
        ([Pair(normal(2), normal(2))], ["0.first", "0.second"]),
        (None, ["output"]),
        ((), []),
    ],
    ids=str,
)
def test_outputs_have_the_names_that_lead_there(output: Any, names: list[str]) -> None:
    assert list(name_leaves(output)) == names


def test_only_floating_tensors_with_dimensions_are_compared() -> None:
    output = {"loss": torch.tensor(1.0), "n": torch.arange(3), "x": normal(3), "none": None}
    assert list(floating(output)) == ["x"]


# All outputs are judged


def test_all_outputs_must_agree() -> None:
    a, b = classes(4, 3), classes(4, 5, seed=1)
    judge = settle(None, [((a, b), 4)])
    other = a.clone()
    other[0] = a[0].flip(0) if a[0].argmax() != 1 else a[0].roll(1)
    first, second = judge.decide((a, b), (other, b), 4)
    assert first.tolist() == [False, True, True, True]
    assert second.all()
    assert str(judge) == "0, 1: largest class along axis 1 (argmax)"
    assert not judge.question


def test_numbers_for_all_examples_are_left_out_and_said() -> None:
    output = {"loss": torch.tensor(1.0), "logits": classes(4, 3), "labels": torch.arange(4)}
    judge = settle(None, [(output, 4)])
    assert [judged.name for judged in judge.outputs] == ["logits"]
    assert judge.notes == (
        "the output loss is not judged: it is one number for all examples",
        "the output labels is not judged: it holds int64",
    )
    assert not judge.question


def test_beside_a_sure_output_doubtful_ones_are_judged_closely_and_said() -> None:
    output = {"out": classes(4, 3), "features": normal(4, 8, 5, 5)}
    judge = settle(None, [(output, 4)])
    assert str(judge) == (
        "out: largest class along axis 1 (argmax); features: relative error at most 5 % per "
        "example (close)"
    )
    assert "the output features is judged by relative error" in judge.notes[0]
    assert not judge.question


def test_rows_of_several_batches_are_looked_at_together() -> None:
    scores = torch.diag(torch.full((12,), 9.0)) - 9 / 12
    assert settle(None, [(scores[:1], 1)]).question
    assert not settle(None, [(row[None], 1) for row in scores]).question


# What is asked


def test_where_nothing_is_sure_the_choices_are_listed() -> None:
    judge = settle(None, [(normal(16, 4), 16)])
    assert "output (N, 4)" in judge.question
    assert 'one of "argmax", "multilabel", "close"' in judge.question
    assert str(judge) == "relative error at most 5 % per example (close)"
    told = [(judged.rule.name, judged.counts) for judged in judge.outputs]
    assert told == [("close", True), ("argmax", False), ("multilabel", False)]


def test_several_doubtful_outputs_are_asked_by_name() -> None:
    question = settle(None, [({"box": normal(16, 4), "score": normal(16, 1)}, 16)]).question
    assert 'decision={"box": ..., "score": ...}' in question
    assert 'score: one of "sign", "close"' in question


def test_an_output_without_rows_is_asked_about() -> None:
    output = {"out": classes(4, 3), "anchors": normal(9, 4)}
    assert 'leave it out by decision={"anchors": None}' in settle(None, [(output, 4)]).question
    assert not settle({"anchors": None}, [(output, 4)]).question


# The caller's rules


def test_one_rule_for_every_output() -> None:
    output = {"mask": normal(4, 1, 8, 8), "score": normal(4, 1)}
    assert str(settle("sign", [(output, 4)])) == (
        "mask: same side of 0 on at least 99 % of the positions (sign); score: same side of 0 "
        "(sign)"
    )


def test_rules_by_output() -> None:
    output = {"heads": [normal(4, 3), normal(4, 3)], "box": normal(4, 4), "old": normal(4, 2)}
    decision: Decision = {"heads": "argmax", "box": close(0.1), "old": None}
    judge = settle(decision, [(output, 4)])
    assert {judged.name: judged.rule for judged in judge.outputs} == {
        "heads.0": argmax(1, 1.0),
        "heads.1": argmax(1, 1.0),
        "box": close(0.1),
    }
    assert judge.notes == ("the output old is not judged: the caller's choice",)
    own = settle({"box": lambda a, b: (a - b).abs().amax(1) < 1, "heads.0": argmax}, [(output, 4)])
    assert [judged.name for judged in own.outputs] == ["box", "heads.0", "heads.1", "old"]


def test_outputs_by_index() -> None:
    judge = settle({1: "sign"}, [((classes(4, 3), normal(4)), 4)])
    assert {judged.name: judged.rule.name for judged in judge.outputs} == {
        "0": "argmax",
        "1": "sign",
    }


@pytest.mark.parametrize(
    ("decision", "why"),
    [
        ({"logit": "argmax"}, "names the output 'logit'; the model returns logits, loss"),
        ({"loss": "close"}, "the output loss cannot be judged: it is one number"),
        ({"logits": argmax(dim=3)}, "The output logits: argmax along axis 3"),
        ({"logits": None}, "no floating tensor"),
    ],
    ids=str,
)
def test_rules_that_do_not_suit_the_output(decision: Any, why: str) -> None:
    output = {"logits": classes(4, 3), "loss": torch.tensor(1.0)}
    with pytest.raises(UnsupportedError, match=why):
        settle(decision, [(output, 4)])


def test_a_rule_that_suits_one_output_only_asks_for_rules_by_name() -> None:
    with pytest.raises(UnsupportedError, match="The output 1: argmax along axis 1"):
        settle("argmax", [((classes(4, 3), normal(4, 1)), 4)])


@pytest.mark.parametrize("decision", [0.5, 3, ["argmax"], "largest", {"a": 3}, {"a": "largest"}])
def test_what_decision_does_not_take(decision: Any) -> None:
    with pytest.raises(UnsupportedError, match="^decision"):
        check_decision(decision)


def test_a_callers_function_is_tried_on_the_original_first() -> None:
    with pytest.raises(UnsupportedError, match=r"shape \(4, 3\) for 4 examples"):
        settle(lambda a, b: a == b, [(classes(4, 3), 4)])
    with pytest.raises(UnsupportedError, match=r"shape \(4, 3\) for 4 examples"):
        settle({"a": lambda a, b: a == b}, [({"a": classes(4, 3)}, 4)])
    judge = settle(lambda a, b: (a == b).all(1), [(classes(4, 3), 4)])
    assert "the caller's own (<lambda>)" in str(judge)


@pytest.mark.parametrize(
    "output", [torch.tensor(1.5), torch.arange(3), None, (), {"logits": 3}], ids=str
)
def test_an_output_with_nothing_to_compare_is_an_error(output: object) -> None:
    with pytest.raises(UnsupportedError, match="no floating tensor"):
        settle(None, [(output, 3)])


def test_later_batches_of_another_structure_are_errors() -> None:
    judge = settle({"a": sign()}, [({"a": normal(4)}, 4)])
    with pytest.raises(UnsupportedError, match="The output a is missing or has no row for each"):
        judge.decide({"a": normal(4)}, {"b": normal(4)}, 4)
    with pytest.raises(UnsupportedError, match="no row for each of 3 examples"):
        judge.decide({"a": normal(4)}, {"a": normal(4)}, 3)


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


def test_equal_masks_are_no_error() -> None:
    masked = torch.tensor([[1.0, -torch.inf, 3.0]])
    assert squared_error(masked, masked)[0] == 0
    assert squared_error(masked, torch.zeros(1, 3))[0] == torch.inf


def test_errors_of_several_outputs_are_told_apart() -> None:
    errors = OutputErrors()
    exact, off = normal(4, 3), normal(4, 1)
    errors.count(squared_errors({"a": exact, "b": off}, {"a": exact, "b": 1.5 * off}))
    assert errors.by_output() == {"a": 0.0, "b": pytest.approx(0.25)}
    assert errors.mean() == pytest.approx(0.125)
