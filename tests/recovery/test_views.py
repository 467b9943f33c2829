"""The acceptance examples from several sides."""

import numpy as np
import pytest
import torch
from torch import Tensor

import fxprune
from fxprune.capture.batch import Batch, make_batch
from fxprune.recovery.acceptance import Examiner
from fxprune.recovery.augmentation import Augmentation, Step
from fxprune.recovery.pair import Pair
from fxprune.recovery.views import Views, views_for
from fxprune.verify.decisions import argmax
from fxprune.verify.judge import Judge, Judged
from tests.nets import images, tiny

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("steps", "examples", "expected"),
    [
        (("flip", "crop", "mix", lambda batch: batch), 100, (("flip", "crop"), 4)),
        (("zoom",), 10, (("zoom",), 8)),
        (("flip",), 300, (("flip",), 2)),
        (("flip",), 1000, (("flip",), 1)),
        (("mix",), 10, ((), 1)),
        ((), 10, ((), 1)),
    ],
)
def test_few_examples_are_seen_often_by_steps_that_keep_what_they_are(
    steps: tuple[Step, ...], examples: int, expected: tuple[tuple[str, ...], int]
) -> None:
    views = views_for(Augmentation(tiny(), steps), examples, 0)
    assert (views.steps, views.count) == expected


def test_every_evaluation_sees_the_same_views_and_leaves_the_generator_alone() -> None:
    batch, views = make_batch((images(8),), {}), Views(("flip", "crop"), 4, 3)
    state = torch.random.get_rng_state()

    def seen() -> list[Tensor]:
        with views.drawn():
            return [view.tensors()[0] for view in views.of(batch)]

    first, again = seen(), seen()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(first[0], images(8))
    assert not any(torch.equal(first[0], view) for view in first[1:])


def test_rates_are_over_all_views_and_divergences_by_example(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model that answers by an image's first pixel, and one that answers by another; the first
    is asked once, but for what there is no room to keep.
    """
    asked = list[int]()

    class Stub(Pair):
        def teach(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
            asked.append(batch.size)
            return [], torch.stack([x := batch.tensors()[0][:, 0, 0, 0], -x], 1)

        def judged(self, batch: Batch) -> Tensor:
            return torch.stack([x := batch.tensors()[0][:, 0, 0, -1], -x], 1)

        def divergence(self, reference: Tensor, output: Tensor) -> Tensor:
            return (reference - output).square().sum(1)

    pair = Stub.__new__(Stub)
    object.__setattr__(pair, "device", CPU)
    x = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    batches = [make_batch((part,), {}) for part in x.split(4)]
    views = Views(("flip",), 3, 0)
    judge = Judge((Judged("", argmax(1)),))
    examine = Examiner(pair, lambda: batches, np.arange(6), judge, views)
    found = examine()
    first, last = x[:, 0, 0, 0], x[:, 0, 0, -1]
    assert found.rate == int(((first > 0) == (last > 0)).sum()) / 6
    np.testing.assert_allclose(found.each, (2 * (first - last).square()).tolist(), rtol=1e-5)
    assert len(found.each) == 6
    assert asked == [4, 4, 4, 2, 2, 2]
    monkeypatch.setattr("fxprune.recovery.acceptance.KEPT", 4 * 2 * 4)
    little = Examiner(pair, lambda: batches, np.arange(6), judge, views)
    assert examine() == found == little() == little()
    assert asked[6:] == [4, 4, 4, 2, 2, 2] + [4, 4, 2, 2, 2]
    grouped = Examiner(pair, lambda: batches, np.array([7, 3, 3, 7, 3, 9]), judge, views)()
    sums = [found.each[1] + found.each[2] + found.each[4], found.each[0] + found.each[3]]
    np.testing.assert_allclose(grouped.each, np.array([*sums, found.each[5]]) * 3 / 6)
    assert (grouped.rate, grouped.divergence) == (found.rate, found.divergence)
    np.testing.assert_allclose(np.mean(grouped.each), found.divergence)


def test_the_report_says_in_how_many_views() -> None:
    net, data = tiny(), list(images(100).split(50))
    small = fxprune.compress(net, data, flops=0.6, decision="argmax", progress=False)
    better = fxprune.recover(small, net, data, steps=2, decision="argmax", progress=False)
    row = fxprune.report(better).recovery
    assert row is not None
    assert (row.accepted, row.views) == (10, 8)
    assert "Chosen on 10 examples, each in 8 views" in str(fxprune.report(better))
    assert (80 * row.chosen[0]) % 1 == pytest.approx(0)
