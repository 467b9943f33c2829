"""Which examples belong together, and for how many independent ones they count."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fxprune.calibrate.fingerprint import fingerprints
from fxprune.calibrate.groups import independent, number_groups
from fxprune.calibrate.loader import Calibration
from fxprune.capture.batch import make_batch
from fxprune.errors import CalibrationError


class Takes(nn.Module):
    """Takes what the tests give, and any keyword."""

    def forward(self, x: Tensor, **others: Any) -> Tensor:
        return x


X = torch.arange(12.0).view(6, 2)
LABELS = ["a", "b", "a", "c", "b", "d"]
NUMBERS = [0, 1, 0, 2, 1, 3]


@pytest.mark.parametrize(
    ("loader", "groups"),
    [
        (X, LABELS),
        (list(X.split(4)), np.array(LABELS)),
        (X, torch.tensor([5, 3, 5, 9, 3, 0])),
        ([{"x": X, "scene": LABELS}], "scene"),
        ([{"x": X, "scene": torch.tensor([5, 3, 5, 9, 3, 0])}], "scene"),
        ([(X[:4], LABELS[:4]), (X[4:], LABELS[4:])], lambda batch: batch[1]),
        ((part for part in X.split(2)), lambda batch: [LABELS[int(v) // 2] for v in batch[:, 0]]),
        (DataLoader(TensorDataset(X), batch_size=4), LABELS),
    ],
    ids=["list", "numpy", "tensor", "key", "key of tensor", "callable", "generator", "in order"],
)
def test_one_label_per_example_however_it_is_given(loader: Any, groups: Any) -> None:
    found = Calibration(Takes(), loader, groups=groups)
    assert found.groups.tolist() == NUMBERS
    assert all(set(batch.kwargs) <= {"x"} for batch in found.batches())


@pytest.mark.parametrize(
    ("loader", "groups", "message"),
    [
        (X, LABELS[:4], "has 4 labels; the calibration loader gives more examples"),
        (X, [*LABELS, "e"], "has 7 labels; the calibration loader gives 6 examples"),
        ([(X,)], lambda batch: batch[:, 0], "groups= fails on .* a tuple: TypeError"),
        (X, lambda batch: [1], "gives 1 labels for the calibration batch from example 0"),
        (X, lambda batch: [None] * 6, "gives None in the calibration batch"),
        (X, lambda batch: [float("nan")] * 6, "gives nan in the calibration batch"),
        (X, lambda batch: [[1]] * 6, r"gives \[1\] in the calibration batch"),
        (X, "scene", r"groups='scene' is no key of the calibration batches \(Tensor\)"),
        ([{"x": X}], "scene", r"groups='scene' is no key .* \(\['x'\]\)"),
        (X, 3, "groups is a int"),
        (X, torch.ones(6, 1), "groups is a Tensor"),
        (
            DataLoader(TensorDataset(X), batch_size=4, shuffle=True),
            LABELS,
            "draws them in another order every time",
        ),
    ],
)
def test_labels_that_cannot_be_right_are_refused(loader: Any, groups: Any, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        Calibration(Takes(), loader, groups=groups)


def test_identical_inputs_have_the_same_fingerprint_and_no_others() -> None:
    x = torch.randn(4, 3, 5)
    x[2] = x[0]
    marks = fingerprints(make_batch((x,), {}))
    assert marks[2] == marks[0]
    assert len(set(marks)) == 3
    assert fingerprints(make_batch((x.flip(0).contiguous(),), {})) == marks[::-1]
    assert not set(fingerprints(make_batch((x.double(),), {}))) & set(marks)
    assert not set(fingerprints(make_batch((x.view(4, 5, 3),), {}))) & set(marks)
    scaled = [fingerprints(make_batch((x, torch.tensor(s)), {})) for s in (1.0, 2.0)]
    assert not set(scaled[0]) & set(scaled[1])


def test_copies_and_labels_link_examples_across_each_other() -> None:
    marks = [b"p", b"q", b"r", b"q", b"s"]
    assert number_groups(marks).tolist() == [0, 1, 2, 1, 3]
    assert number_groups(marks, ["a", "a", "b", "c", "c"]).tolist() == [0, 0, 1, 0, 0]


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=40))
def test_groups_are_the_connected_parts(pairs: list[tuple[int, int]]) -> None:
    found = number_groups([bytes([m]) for m, _ in pairs], [label for _, label in pairs])
    linked = np.array([[a[0] == b[0] or a[1] == b[1] for b in pairs] for a in pairs])
    for _ in range(len(pairs)):
        linked = linked | (linked.astype(int) @ linked.astype(int) > 0)
    assert np.array_equal(linked, found[:, None] == found[None])
    assert list(dict.fromkeys(found.tolist())) == list(range(found.max() + 1))


def test_for_how_many_independent_examples_groups_count() -> None:
    assert independent(np.arange(7)) == 7
    assert independent(np.repeat(np.arange(20), 50)) == pytest.approx(20)
    assert independent(np.array([0] * 90 + list(range(1, 11)))) == pytest.approx(10000 / 8110)
    assert independent(np.array([], dtype=int)) == 0
