"""What a rule calls a decision, in words: for reports."""

from functools import singledispatch

import torch
from torch import Tensor

from fxprune.verify.decisions import Rule, argmax, close, multilabel, sign


@singledispatch
def classes_of(rule: Rule, output: Tensor) -> Tensor | None:
    """(N,) numbers of the classes that an output chooses; None where examples have no single
    one.
    """
    return None


@classes_of.register
def _(rule: argmax, output: Tensor) -> Tensor | None:
    chosen = _classes(rule, output).reshape(len(output), -1)
    return chosen[:, 0] if chosen.shape[1] == 1 else None


@classes_of.register
def _(rule: sign, output: Tensor) -> Tensor | None:
    sides = (output > (rule.threshold or 0)).reshape(len(output), -1)
    return sides[:, 0].long() if sides.shape[1] == 1 else None


def name_class(rule: Rule, number: int) -> str:
    """What a class is called."""
    if isinstance(rule, sign):
        return f"{'above' if number else 'at most'} {rule.threshold or 0:g}"
    return str(number)


def tell(rule: Rule, reference: Tensor, output: Tensor) -> tuple[str, str]:
    """Both decisions on one example, (1, ...) each; empty where the rule has no words for them, and
    only the second where it speaks of both.
    """
    chosen = classes_of(rule, reference), classes_of(rule, output)
    if chosen[0] is not None and chosen[1] is not None:
        return name_class(rule, int(chosen[0])), name_class(rule, int(chosen[1]))
    return _tell(rule, reference, output)


@singledispatch
def _tell(rule: Rule, reference: Tensor, output: Tensor) -> tuple[str, str]:
    return "", ""


@_tell.register
def _(rule: argmax, reference: Tensor, output: Tensor) -> tuple[str, str]:
    equal = _classes(rule, reference) == _classes(rule, output)
    return "", f"{float(equal.double().mean()):.1%} of the positions equal"


@_tell.register
def _(rule: multilabel, reference: Tensor, output: Tensor) -> tuple[str, str]:
    return _labels(rule, reference), _labels(rule, output)


@_tell.register
def _(rule: close, reference: Tensor, output: Tensor) -> tuple[str, str]:
    a, b = reference.double(), output.double()
    error = float((a - b).norm() / a.norm().clamp(min=torch.finfo(torch.float64).tiny))
    return "", f"relative error {error:.2g}"


def _classes(rule: argmax, output: Tensor) -> Tensor:
    return output.argmax(1 if rule.dim is None else rule.dim)


def _labels(rule: multilabel, scores: Tensor) -> str:
    chosen = (scores > (rule.threshold or 0)).reshape(-1).nonzero()[:, 0].tolist()
    return f"labels {', '.join(map(str, chosen)) or 'none'}"
