"""Agreement class by class, and the examples that changed."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import scipy.stats
import torch
from torch import Tensor

from fxprune import decisions
from fxprune.capture.batch import make_batch
from fxprune.verify.agreement import Agreement, compare
from fxprune.verify.by_class import MOST_CHANGED, Changed
from fxprune.verify.judge import Decision


def compared(
    reference: Any, output: Tensor, decision: Decision, size: int = 2, **options: Any
) -> Agreement:
    """Of two given outputs, batch by batch; the inputs are images."""
    images = torch.rand(len(output), 3, 8, 8)
    batches = [
        make_batch((images[i : i + size], torch.stack([reference, output], 1)[i : i + size]), {})
        for i in range(0, len(output), size)
    ]

    def taking(which: int) -> Callable[..., Tensor]:
        def model(x: Tensor, both: Tensor) -> Tensor:
            return both[:, which]

        return model

    return compare(taking(0), taking(1), batches, decision, **options)


SCORES = torch.eye(3)[torch.tensor([0, 0, 0, 1, 2, 2])]
OTHERS = torch.eye(3)[torch.tensor([0, 0, 1, 1, 0, 2])]


def test_every_class_has_its_rate_and_interval() -> None:
    found = compared(SCORES, OTHERS, "argmax")
    assert [(c.name, c.examples) for c in found.classes] == [("0", 3), ("1", 1), ("2", 2)]
    assert [c.rate for c in found.classes] == pytest.approx([2 / 3, 1, 1 / 2])
    for own, agreeing in zip(found.classes, (2, 1, 1), strict=True):
        exact = scipy.stats.binomtest(agreeing, own.examples).proportion_ci(0.95, "exact")
        assert (own.low, own.high) == pytest.approx((exact.low, exact.high))


def test_examples_that_belong_together_widen_the_interval() -> None:
    alone, together = (compared(SCORES, OTHERS, "argmax", independent=n) for n in (6, 3))
    for a, b in zip(alone.classes, together.classes, strict=True):
        assert b.low <= a.low
        assert a.high <= b.high
        assert a.rate == b.rate


def test_changed_examples_say_what_was_decided() -> None:
    found = compared(SCORES, OTHERS, "argmax")
    assert [(c.number, c.before, c.after) for c in found.changed] == [(2, "0", "1"), (4, "2", "0")]
    assert all(c.picture is not None for c in found.changed)
    numbers = torch.tensor([5, 6, 7, 9, 11, 12]).numpy()
    assert [c.number for c in found.numbered(numbers).changed] == [7, 11]


def test_pictures_stay_in_the_process() -> None:
    example = compared(SCORES, OTHERS, "argmax").changed[0]
    assert copy.deepcopy(example).picture is not None
    again = pickle.loads(pickle.dumps(example))
    assert again == example == Changed(2, "0", "1")
    assert again.picture is None


def test_no_more_examples_are_kept_than_a_report_shows() -> None:
    changed = compared(torch.eye(2)[[0] * 99], torch.eye(2)[[1] * 99], "argmax").changed
    assert [c.number for c in changed] == list(range(MOST_CHANGED))


LOGITS, FLIPPED = torch.tensor([[2.0], [-1.0]]), torch.tensor([[2.0], [3.0]])
PIXELS = torch.eye(2)[torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0]])].movedim(2, 1)


@pytest.mark.parametrize(
    ("reference", "output", "decision", "classes", "told"),
    [
        (LOGITS, FLIPPED, "sign", ["above 0", "at most 0"], ("at most 0", "above 0")),
        (
            torch.tensor([[2.0, 1.0], [1.0, -1.0]]),
            torch.tensor([[2.0, 1.0], [-1.0, -1.0]]),
            "multilabel",
            [],
            ("labels 0", "labels none"),
        ),
        (
            torch.tensor([[3.0, 4.0], [3.0, 4.0]]),
            torch.tensor([[3.0, 4.0], [3.0, 3.0]]),
            decisions.close(),
            [],
            ("", "relative error 0.2"),
        ),
        (
            PIXELS,
            PIXELS.where(torch.tensor([1.0, 1.0, 1.0, 0.0]) > 0, PIXELS.flip(1)),
            decisions.argmax(dim=1),
            [],
            ("", "75.0% of the positions equal"),
        ),
        (LOGITS, FLIPPED, lambda a, b: ((a - b).abs() < 1).reshape(-1), [], ("", "")),
    ],
    ids=["sign", "multilabel", "close", "pixels", "custom"],
)
def test_what_other_rules_call_a_decision(
    reference: Tensor, output: Tensor, decision: Decision, classes: list[str], told: Any
) -> None:
    found = compared(reference, output, decision)
    assert sorted(c.name for c in found.classes) == classes
    assert (found.changed[-1].before, found.changed[-1].after) == told
