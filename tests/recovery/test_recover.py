"""`fxprune.recover`: it agrees more, never less, and leaves what it was given alone."""

import copy
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.recovery.acceptance import Best, Examiner, Measured, copies, partway
from tests.nets import images, tiny
from tests.recovery.subjects import (
    agreement,
    classifier,
    compressed,
    examples,
    inputs,
    recovered,
)
from tests.test_progress import heard

MEAN = "body.norm.running_mean"
FAST = fxprune.Training(rate=3e-3)


def test_training_raises_agreement_on_examples_that_nothing_has_seen(tmp_path: Path) -> None:
    small = compressed()
    better = recovered(small, training=FAST)
    row = fxprune.report(better).recovery
    assert row is not None
    assert agreement(better) > agreement(small) + 0.01
    assert row.chosen[1] >= row.chosen[0]
    assert row.divergence[1] < row.divergence[0]
    assert 0 < row.kept <= row.steps == 150
    assert {n: t.shape for n, t in better.state_dict().items()} == {
        n: t.shape for n, t in small.state_dict().items()
    }
    assert fxprune.plan_of(better) == fxprune.plan_of(small)
    fxprune.save(better, tmp_path / "better.safetensors")
    for again in (
        fxprune.load(tmp_path / "better.safetensors"),
        pickle.loads(pickle.dumps(better)),
        copy.deepcopy(better),
    ):
        assert torch.equal(again(inputs(5)), better(inputs(5)))
        assert fxprune.report(again) == fxprune.report(better)
    assert "Recovered in 150 steps of soap" in str(fxprune.report(better))


def test_what_was_given_stays_as_it_was() -> None:
    small, net = compressed().train(), classifier().train()
    for parameter in small.parameters():
        parameter.requires_grad_(False)
    states = [copy.deepcopy(m.state_dict()) for m in (small, net)]
    generator = torch.random.get_rng_state()
    report = fxprune.report(small)
    better = fxprune.recover(
        small, net, examples(), steps=5, training=FAST, decision="argmax", progress=False
    )
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert all(m.training for module in (small, net) for m in module.modules())
    for module, state in zip((small, net), states, strict=True):
        assert all(torch.equal(t, state[n]) for n, t in module.state_dict().items())
    assert all(p.grad is None for module in (small, net) for p in module.parameters())
    assert fxprune.report(small) is report
    assert not any(p.requires_grad for p in better.parameters())
    assert not better.training


def test_weights_that_agree_less_are_not_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxprune.recovery.loop.SLOWER", 1.0)
    small = compressed()
    wild = fxprune.Training(optimizer="sgd", rate=3.0, momentum=0.0, warmup=0.0, patience=5)
    same = recovered(small, steps=40, training=wild)
    report = fxprune.report(same)
    assert report.recovery is not None
    assert report.recovery.kept == 0
    assert report.recovery.chosen[0] == report.recovery.chosen[1]
    assert any("training stopped" in note for note in report.notes)
    assert all(torch.equal(t, same.state_dict()[n]) for n, t in small.state_dict().items())
    assert "no weights were accepted" in str(report)


@pytest.mark.parametrize(("refused", "way"), [(0, 1.0), (1, 0.5), (2, 0.25), (3, 0.0)])
def test_where_weights_are_refused_those_part_of_the_way_are_judged(
    refused: int, way: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, good, bad = Measured(0.5, 1.0), Measured(0.6, 0.5), Measured(0.6, 1.0)
    training = fxprune.Training(optimizer="sgd", evaluations=1)
    small, made = compressed(), []
    for answers in ([good], [*[bad] * refused, good]):
        given = iter([start, start, start, *answers])  # two of them once the rate is up
        monkeypatch.setattr(Examiner, "__call__", lambda self, given=given: next(given))
        made.append(recovered(small, steps=9, training=training))
    whole, part = (module.state_dict() for module in made)
    for name, own in small.state_dict().items():
        torch.testing.assert_close(part[name], torch.lerp(own, whole[name], way))
    weight = next(iter(whole))
    assert not torch.equal(small.state_dict()[weight], whole[weight])
    row = fxprune.report(made[1]).recovery
    assert row is not None
    assert (row.kept, row.way) == ((9, way) if way else (0, 1.0))
    told = f"step 9, {way:g} of the way from the best before, were kept"
    assert (told in " ".join(str(fxprune.report(made[1])).split())) == (0 < way < 1)


def test_weights_on_the_way_leave_the_modules_own_as_they_were() -> None:
    module = nn.BatchNorm1d(3)
    module.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    own, other = copies(module.state_dict()), copies(nn.BatchNorm1d(3).state_dict())
    other["weight"].zero_()
    with partway(module, other, 0.25):
        assert torch.equal(module.weight, torch.full((3,), 0.25))
        assert module.num_batches_tracked == 7
    assert all(torch.equal(t, own[name]) for name, t in module.state_dict().items())


def test_weights_are_accepted_that_agree_no_less_and_are_not_clearly_further_away() -> None:
    start = Measured(0.9, 1.0, (1.0, 0.9, 1.1, 1.0))
    best = Best(start, start, start)
    assert not best.accepts(Measured(0.89, 0.1, (0.1,) * 4))
    assert not best.accepts(Measured(1.0, 1.01, (1.01,) * 4))
    first = Measured(0.9, 0.5, (0.5, 0.4, 0.6, 0.5))
    assert best.accepts(first)
    best.take(first, 20, {"a": torch.ones(1)})
    near, far = Measured(0.9, 0.52, (0.2, 0.8, 0.5, 0.58)), Measured(1.0, 0.6, (0.6, 0.5, 0.7, 0.6))
    above = (0.5, 0.4, 0.6, 0.5 + 0.4), (0.5, 0.4, 0.6 + 0.3, 0.5 + 0.3), (0.5, 0.7, 0.9, 0.8)
    ratios = [
        float(np.subtract(each, first.each).mean() / np.subtract(each, first.each).std(ddof=1) * 2)
        for each in above
    ]
    np.testing.assert_allclose(ratios, (1, 3**0.5, 3))
    assert [best.accepts(Measured(0.9, 0.6, each)) for each in above] == [True, True, False]
    assert best.accepts(near)
    assert not best.accepts(far)
    best.take(near, 30, {"a": torch.zeros(1)})
    assert (best.step, best.least) == (30, first)
    assert torch.equal(best.weights["a"], torch.zeros(1))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_in_any_order_of_calls() -> None:
    small = compressed()
    first = recovered(small, steps=20)
    torch.randn(7)
    assert all(
        torch.equal(t, recovered(small, steps=20).state_dict()[n])
        for n, t in first.state_dict().items()
    )


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 2, "steps": None},
        {"minutes": 0.01, "steps": None},
        {"training": fxprune.Training(optimizer="sgd", schedule="step", average=0.9)},
        {"training": fxprune.Training(accumulate=3, schedule="linear", batch=16)},
        {"training": fxprune.Training(schedule="constant", mixed_precision="bf16")},
        {"training": fxprune.Training(features=0.0), "augment": None},
        {"augment": ["mix", lambda x: x + 0.01 * torch.randn_like(x)]},
    ],
)
def test_ways_to_train(options: dict[str, Any]) -> None:
    small = compressed()
    report = fxprune.report(recovered(small, **{"steps": 10, **options}))
    assert report.recovery is not None
    assert report.recovery.steps > 0
    if options.get("epochs"):
        assert report.recovery.steps == -(-2 * 480 // 32)


def test_what_it_decides_is_logged() -> None:
    with heard(logging.INFO) as said:
        report = fxprune.report(recovered(compressed(), steps=4))
    told = [text for _, text in said]
    assert "decision: largest class along axis 1 (argmax)" in told
    agreement = report.agreement
    assert agreement is not None
    bound = f"of {agreement.examples} held-out examples, at least {100 * agreement.bound:.2f} %"
    assert any(bound in line for line in told)
    stations = {line.split(" took ")[0] for line in told if " took " in line}
    assert {"capture", "recover", "certify"} <= stations


def test_labels_are_mixed_in() -> None:
    small, net = compressed(), classifier()
    with torch.no_grad():
        right = [(x, net(x).argmax(1)) for x in examples()]
    wrong = [(x, torch.full((len(x),), 2)) for x in examples()]
    better = recovered(small, right, labels=True, training=FAST, steps=60)
    assert fxprune.report(better).recovery.kept > 0  # type: ignore[union-attr]
    only = fxprune.Training(rate=1e-2, label_share=1.0, features=0.0, evaluations=1)
    same = recovered(small, wrong, labels=True, training=only, steps=60)
    assert fxprune.report(same).recovery.kept == 0  # type: ignore[union-attr]


class Regressor(nn.Module):
    """Two outputs with a normalization, one of them nested, from images and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.scale = tiny(), nn.Linear(4, 3)

    def forward(self, x: Tensor, gain: Tensor) -> dict[str, Tensor]:
        found = self.body(x) * gain
        return {"raw": found, "mixed": self.scale(found)}


def test_labels_under_keys() -> None:
    net = Regressor().eval()
    data = [{"x": x, "gain": 1 + x.mean((1, 2, 3))[:, None]} for x in images(100).split(50)]
    decision: Any = {"raw": "argmax", "mixed": None}
    small = fxprune.compress(
        net, data, flops=0.6, method="uniform", decision=decision, progress=False
    )
    for batch in data:
        batch["labels"] = net(**batch)["raw"].argmax(1)
    better = fxprune.recover(
        small, net, data, steps=3, labels=True, decision=decision, progress=False
    )
    assert fxprune.report(better).recovery is not None


def test_several_outputs_squares_and_following_statistics() -> None:
    torch.manual_seed(0)
    net = Regressor().eval()
    data = [{"x": x, "gain": 1 + x.mean((1, 2, 3))[:, None]} for x in images(200).split(50)]
    small = fxprune.compress(
        net, data, flops=0.4, method="magnitude", decision="close", progress=False
    )
    options = {"steps": 20, "decision": "close", "progress": False, "augment": None}
    better = fxprune.recover(small, net, data, training=FAST, **options)  # type: ignore[arg-type]
    row = fxprune.report(better).recovery
    assert row is not None
    assert row.divergence[1] < row.divergence[0]
    assert torch.equal(better.get_buffer(MEAN), small.get_buffer(MEAN))
    follow = fxprune.Training(rate=3e-3, freeze_statistics=False)
    moved = fxprune.recover(small, net, data, training=follow, **options)  # type: ignore[arg-type]
    assert not torch.equal(moved.get_buffer(MEAN), small.get_buffer(MEAN))


def test_layers_that_became_two_and_images_are_trained_too() -> None:
    data = list(images(120).split(40))
    small = fxprune.factorize(tiny(), data, params=0.6, decision="argmax", progress=False)
    assert fxprune.plan_of(small).factorings
    better = fxprune.recover(small, tiny(), data, steps=6, decision="argmax", progress=False)
    assert fxprune.report(better).recovery is not None
