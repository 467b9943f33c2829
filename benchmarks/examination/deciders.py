"""Outputs that decide rightly or wrongly as they are told, one kind for every rule."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxprune.verify.judge import Decision

ROWS, CLASSES, LABELS = 10, 4, 5
"""Positions along either axis of a map, classes, and labels or numbers of one example."""


@dataclass(frozen=True)
class Decider:
    """A kind of output.

    Attributes:
        decision: what `decision=` is given for it.
        original: numbers (N, 3), the examples, to the original's output.
        fitted: the original's output, (N,) bool and the examples, to one that differs everywhere
            and decides otherwise where it is told to, and nowhere else.
    """

    decision: Decision
    original: Callable[[Tensor], Any]
    fitted: Callable[[Any, Tensor, Tensor], Any]


def numbers(x: Tensor, *shape: int) -> Tensor:
    """(N, *shape) in [0, 1), as good as drawn, and the same for the same example."""
    places = torch.arange(1, torch.Size(shape).numel() + 1, dtype=torch.float64)
    return (x[:, 2:].double() * (1009 + 97 * places)).frac().abs().float().view(-1, *shape)


def _choose(wrong: Tensor, otherwise: Tensor, alike: Tensor) -> Tensor:
    return torch.where(wrong.view(-1, *[1] * (alike.dim() - 1)), otherwise, alike)


def _other_class(scores: Tensor, wrong: Tensor, x: Tensor) -> Tensor:
    return _choose(wrong, scores.roll(1, 1), 0.9 * scores)


def _other_positions(scores: Tensor, wrong: Tensor, x: Tensor) -> Tensor:
    """Of a hundred positions, one is another class where the decision is the same, else two."""
    rolled = scores.roll(1, 1)
    found = 0.9 * scores
    found[..., 0, 0] = rolled[..., 0, 0]
    found[..., 0, 1] = _choose(wrong, rolled[..., 0, 1], found[..., 0, 1])
    return found


def _other_side(scores: Tensor, wrong: Tensor, x: Tensor) -> Tensor:
    return _choose(wrong, -scores, 0.9 * scores)


def _other_label(scores: Tensor, wrong: Tensor, x: Tensor) -> Tensor:
    found = 0.9 * scores
    found[:, 1] = _choose(wrong, -scores[:, 1], found[:, 1])
    return found


def _farther(values: Tensor, wrong: Tensor, x: Tensor) -> Tensor:
    """By 6 % instead of 4 %."""
    return _choose(wrong, 1.06 * values, 1.04 * values)


def _several(x: Tensor) -> dict[str, Tensor]:
    return {
        "logits": numbers(x, CLASSES),
        "boxes": 1 + numbers(x, LABELS),
        "mask": numbers(x, 1) - 0.5,
    }


def _one_of_several(output: dict[str, Tensor], wrong: Tensor, x: Tensor) -> dict[str, Tensor]:
    """Wrong in one output, in two or in all."""
    which = (numbers(x, 1)[:, 0] * 7).long() + 1
    changes = (_other_class, _farther, _other_side)
    return {
        name: change(output[name], wrong & (which >> at & 1 > 0), x)
        for at, (name, change) in enumerate(zip(output, changes, strict=True))
    }


def _within(reference: Tensor, output: Tensor) -> Tensor:
    """The caller's own rule: no number is off by more than 0.1."""
    return (reference - output).abs().amax(1) <= 0.1


def _off(values: Tensor, wrong: Tensor, x: Tensor) -> Tensor:
    return values + _choose(wrong, torch.tensor(0.12), 0.08 * numbers(x, 1))


DECIDERS: dict[str, Decider] = {
    "argmax": Decider("argmax", lambda x: numbers(x, CLASSES), _other_class),
    "argmax of positions": Decider(
        "argmax", lambda x: numbers(x, CLASSES, ROWS, ROWS), _other_positions
    ),
    "argmax, inferred": Decider(
        None,
        lambda x: numbers(x, CLASSES).mul(9).softmax(1),
        lambda scores, wrong, x: _choose(wrong, scores.roll(1, 1), scores.sqrt()),
    ),
    "sign": Decider("sign", lambda x: numbers(x, 1) - 0.5, _other_side),
    "multilabel": Decider("multilabel", lambda x: numbers(x, LABELS) - 0.5, _other_label),
    "close": Decider("close", lambda x: 1 + numbers(x, LABELS), _farther),
    "joint": Decider(
        {"logits": "argmax", "boxes": "close", "mask": "sign"}, _several, _one_of_several
    ),
    "callable": Decider(_within, lambda x: numbers(x, LABELS), _off),
}
