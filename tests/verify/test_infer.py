"""The rule of an output whose caller named none, by shape and values."""

import pytest
import torch
from torch import Tensor

from benchmarks.models.nets import NETS, trained
from fxprune.demo.data import load
from fxprune.verify.evidence import are_classes, class_axes
from fxprune.verify.infer import infer


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def logits(*shape: int, axis: int = 1) -> Tensor:
    """As a softmax is trained: one class stands out, and the others level its score."""
    scores = 6 * normal(*shape)
    return scores - scores.mean(axis, keepdim=True)


SURE = {
    "class scores": (logits(64, 10), "largest class along axis 1 (argmax)"),
    "two classes": (logits(64, 2), "largest class along axis 1 (argmax)"),
    "probabilities": (normal(64, 5).softmax(1), "largest class along axis 1 (argmax)"),
    "half probabilities": (
        normal(64, 50).bfloat16().softmax(1),
        "largest class along axis 1 (argmax)",
    ),
    "log-probabilities": (normal(64, 5).log_softmax(1), "largest class along axis 1 (argmax)"),
    "one example's probabilities": (normal(1, 5).softmax(1), "largest class along axis 1 (argmax)"),
    "pixels": (
        logits(4, 21, 16, 16),
        "largest class along axis 1 on at least 99 % of the positions (argmax)",
    ),
    "voxels": (
        normal(4, 3, 4, 4, 4).softmax(1),
        "largest class along axis 1 on at least 99 % of the positions (argmax)",
    ),
    "one pixel": (logits(64, 10, 1, 1), "largest class along axis 1 (argmax)"),
    "tokens": (
        logits(16, 12, 9, axis=2),
        "largest class along axis 2 on at least 99 % of the positions (argmax)",
    ),
    "a series": (
        logits(16, 9, 12),
        "largest class along axis 1 on at least 99 % of the positions (argmax)",
    ),
    "a vocabulary": (
        9 * normal(4, 8, 2000) - 40,
        "largest class along axis 2 on at least 99 % of the positions (argmax)",
    ),
    "energies": (-5 - normal(64).abs(), "relative error at most 5 % per example (close)"),
    "depth": (1 + normal(8, 1, 16, 16).exp(), "relative error at most 5 % per example (close)"),
    "a positive series": (
        2 + normal(16, 12, 1).exp(),
        "relative error at most 5 % per example (close)",
    ),
}


@pytest.mark.parametrize("name", SURE)
def test_shape_and_values_leave_no_doubt(name: str) -> None:
    values, rule = SURE[name]
    found = infer(values)
    assert (str(found.rule), found.doubts) == (rule, ())


MAPS = '"argmax", "multilabel", "close"'
THREE = '"argmax(dim=1)", "argmax(dim=2)", "multilabel", "close"'
SINGLE = '"sign", "close"'
DOUBTFUL = {
    "a binary logit or a number": (normal(64, 1), SINGLE),
    "the same without an axis": (normal(64), SINGLE),
    "a probability or a number": (normal(64, 1).sigmoid(), SINGLE),
    "a mask or a denoised image": (normal(8, 1, 16, 16), SINGLE),
    "a soft mask": (normal(8, 1, 16, 16).sigmoid(), SINGLE),
    "a series of one channel": (normal(16, 1, 12), SINGLE),
    "tokens of one channel": (normal(16, 12, 1), SINGLE),
    "several numbers": (3 * normal(64, 4), MAPS),
    "two numbers": (5 * normal(64, 2), MAPS),
    "boxes": (normal(64, 4).abs() * 100, MAPS),
    "labels": (normal(64, 20) * 4 - 6, MAPS),
    "probabilities of labels": (normal(64, 20).sigmoid(), MAPS),
    "features": (normal(64, 512).relu(), MAPS),
    "normal features": (normal(64, 768), MAPS),
    "features of a layer norm": (torch.nn.LayerNorm(768)(normal(64, 768)).detach(), MAPS),
    "one class always": (logits(64, 10) + 200 * torch.eye(10)[3], MAPS),
    "an untrained classifier": (0.1 * normal(64, 10), MAPS),
    "color images": (normal(8, 3, 16, 16) * 0.2 + normal(8, 1, 16, 16), MAPS),
    "flow": (4 * normal(8, 2, 16, 16), MAPS),
    "feature maps": (normal(8, 32, 7, 7).relu(), MAPS),
    "hidden tokens": (normal(8, 12, 64), THREE),
    "not finite": (torch.full((64, 4), torch.nan), MAPS),
    "few examples": (logits(4, 10), MAPS),
    "energies of few": (-5 - normal(4).abs(), SINGLE),
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_what_is_doubtful_is_asked_and_judged_closely_until_then(name: str) -> None:
    values, choices = DOUBTFUL[name]
    found = infer(values)
    assert found.choices == choices
    assert str(found.rule) == "relative error at most 5 % per example (close)"


@pytest.mark.parametrize("name", NETS)
def test_trained_classifiers_need_no_word(name: str) -> None:
    with torch.no_grad():
        scores = trained(name)(load().calibration[:64])
    assert class_axes(scores) == [1]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_independent_numbers_are_no_classes_whatever_their_scale(count: int, seed: int) -> None:
    values = normal(64, count, seed=seed)
    assert not any(are_classes(scale * values, 1) for scale in (0.1, 1, 3, 10, 100))


def test_values_at_both_axes_leave_the_axis_open() -> None:
    both = torch.eye(4).expand(16, 4, 4)
    assert class_axes(both) == [1, 2]
    assert infer(both).doubts
