"""Frames of scenes and crops of photographs are found; photographs, classes and tables of few
columns are not.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fxprune
from fxprune.calibrate.loader import Calibration
from fxprune.calibrate.near_duplicates import (
    too_alike,
    too_close,
    warn_of_alike_examples,
    warn_of_near_duplicates,
)
from fxprune.calibrate.observe import Observer, arguments
from fxprune.calibrate.penultimate import Penultimate, Seen, distribution
from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.demo.data import load
from fxprune.errors import CalibrationWarning
from tests.nets import images, session_of, tiny


def frames(scenes: int, each: int, noise: float) -> Tensor:
    """Smooth images, each several times with noise, (scenes * each, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(0)
    scene = functional.interpolate(
        torch.randn(scenes, 3, 8, 8, generator=generator), size=32, mode="bilinear"
    )
    same = scene.repeat_interleave(each, 0)
    return same + noise * torch.randn(same.shape, generator=generator)


def found(x: Tensor) -> str | None:
    return warn_of_near_duplicates(Calibration(tiny(), list(x.split(50))), seed=0)


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.2])
@pytest.mark.parametrize("order", ["one after the other", "shuffled"])
def test_frames_of_scenes_are_found(noise: float, order: str) -> None:
    x = frames(20, 50, noise)
    if order == "shuffled":
        x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))]
    with pytest.warns(CalibrationWarning, match=r"1000 of 1000 calibration examples .* groups="):
        assert found(x) is not None


def test_pairs_are_found_among_more_than_are_looked_at() -> None:
    with pytest.warns(CalibrationWarning, match="2000 of 2000"):
        assert found(frames(1500, 2, 0.1)) is not None


def table(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


def classes() -> Tensor:
    """Ten tight classes."""
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(10, 64, generator=generator).repeat_interleave(100, 0) + table(1000, 64)


INDEPENDENT: dict[str, Callable[[], Tensor]] = {
    "photographs": lambda: load().calibration,
    "small ones": lambda: functional.adaptive_avg_pool2d(load().images, 7),
    "noise": lambda: images(1000),
    "classes": classes,
    **{str(columns): partial(table, 2000, columns) for columns in (1, 2, 4, 8, 30)},
}


@pytest.mark.parametrize("name", INDEPENDENT)
def test_independent_examples_give_no_alarm(name: str) -> None:
    x = INDEPENDENT[name]().flatten(1)
    assert too_close(x, torch.arange(len(x))) < 0.2 * len(x)
    assert found(x) is None


def test_what_is_known_to_belong_together_is_no_news() -> None:
    x = images(60).repeat(4, 1, 1, 1)
    assert found(x) is None


def test_the_warning_stands_in_the_report() -> None:
    with pytest.warns(CalibrationWarning, match="nearly repeat"):
        small = fxprune.compress(tiny(), frames(10, 20, 0.05), flops=0.6, progress=False)
    assert any("nearly repeat" in note for note in fxprune.report(small).notes)
    labels = torch.arange(10).repeat_interleave(20)
    own = fxprune.compress(
        tiny(), frames(10, 20, 0.05), flops=0.6, groups=labels, progress=False, method="uniform"
    )
    report = fxprune.report(own)
    assert report.agreement is not None
    assert report.agreement.examples == 40
    assert report.agreement.bound == pytest.approx(0.05**0.5)
    assert any("200 calibration examples are 10 groups" in note for note in report.notes)


def crops(scenes: int, each: int, apart: float, kinds: int = 100) -> Seen:
    """Several views of each scene, and scenes of many kinds."""
    generator = torch.Generator().manual_seed(0)

    def views(width: int, spread: float) -> Tensor:
        kind = spread * torch.randn(kinds, width, generator=generator)
        own = torch.arange(scenes) % kinds
        scene = kind[own] + torch.randn(scenes, width, generator=generator)
        same = scene.repeat_interleave(each, 0)
        return same + apart * torch.randn(same.shape, generator=generator)

    return Seen(np.arange(scenes * each), views(64, 1.0), views(30, 0.5))


def test_views_of_one_scene_are_alike() -> None:
    seen = crops(250, 4, apart=0.25)
    own = torch.arange(1000)
    assert too_alike(seen.features, seen.values, own).sum() > 0.9 * 1000
    assert not too_alike(seen.features, seen.values, own // 4).any()
    with pytest.warns(CalibrationWarning, match=r"of 1000 .* crops and flips .* groups="):
        assert warn_of_alike_examples(seen, own.numpy()) is not None
    assert warn_of_alike_examples(seen, own.numpy() // 4) is None


def test_classes_are_no_scenes_however_tight_they_are() -> None:
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randn(100, 64, generator=generator).repeat_interleave(10, 0)
    features = kinds + 0.05 * torch.randn(kinds.shape, generator=generator)
    assert (
        warn_of_alike_examples(Seen(np.arange(1000), features, table(1000, 30)), np.arange(1000))
        is None
    )


@pytest.mark.parametrize(
    "x",
    [
        *(load().calibration.flatten(1)[:n] for n in (50, 100, 1000)),
        classes(),
        *(table(rows, columns) for rows in (50, 300, 2000) for columns in (2, 4, 30)),
        torch.zeros(200, 8),
        table(200, 8).relu() * (table(200, 8)[:, :1] > 0),
        table(300, 8).round(),
    ],
    ids=lambda x: "x".join(map(str, x.shape)),
)
def test_independent_examples_are_not_alike(x: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert warn_of_alike_examples(Seen(np.arange(len(x)), x, x), np.arange(len(x))) is None


def test_penultimate_features_are_what_the_last_layer_reads() -> None:
    net, x = tiny(), images(60)
    session = session_of(net, [x])
    read: list[Tensor] = []
    net.get_submodule("head").register_forward_pre_hook(lambda _, args: read.append(args[0]))
    numbers = np.random.default_rng(0).permutation(60)
    kept = Penultimate(session.graph, np.arange(60) % 3 > 0)
    observer = Observer(session.graph, kept.watch)
    with torch.no_grad():
        net(x)
        for batch in kept.follow((n, make_batch((x[n],), {})) for n in np.split(numbers, 4)):
            observer.run(*arguments(session.graph, batch), enable_io_processing=False)
    seen = kept.seen()
    assert seen is not None
    assert seen.numbers.tolist() == [n for n in numbers.tolist() if n % 3]
    assert torch.allclose(seen.features, read[0][seen.numbers], atol=1e-6)
    assert torch.equal(seen.values, distribution(x[seen.numbers]))
    assert torch.equal(seen.values, distribution(x.flip(2)[seen.numbers]))


class Shiftless(nn.Module):
    """Sees the same in an image however it is rolled."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1, padding_mode="circular")
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.first(x)).mean((2, 3)))
        return logits


def rolled(scenes: int, each: int) -> Tensor:
    """Noise, each image rolled to several places: other pixels everywhere."""
    generator = torch.Generator().manual_seed(0)
    same = images(scenes).repeat_interleave(each, 0)
    steps = torch.randint(8, (len(same), 2), generator=generator).tolist()
    return torch.stack([torch.roll(x, step, (1, 2)) for x, step in zip(same, steps, strict=True)])


def test_crops_are_seen_by_what_the_model_sees_in_them() -> None:
    x = rolled(60, 4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Shiftless()
    assert found(x) is None
    asked: dict[str, Any] = {"flops": 0.6, "method": "uniform", "decision": "close"}
    with pytest.warns(CalibrationWarning, match=r"\d+ of 1\d\d calibration .* crops and flips"):
        small = fxprune.compress(net, x, progress=False, **asked)
    assert any("crops and flips" in note for note in fxprune.report(small).notes)
    for data, labels in ((x, torch.arange(240) // 4), (images(240), None)):
        small = fxprune.compress(net, data, groups=labels, progress=False, **asked)
        assert not any("crops and flips" in note for note in fxprune.report(small).notes)


def test_batches_of_which_no_example_is_kept_pass() -> None:
    """Of many examples a sample is looked at, and many a batch holds none of it."""
    captured = capture(tiny(), make_batch((images(4, 0),), {}))
    chosen = np.arange(12) >= 8
    kept = Penultimate(captured.graph, chosen)
    batches = [make_batch((images(4, seed),), {}) for seed in range(3)]
    numbered = [(np.arange(4 * i, 4 * i + 4), batch) for i, batch in enumerate(batches)]
    for batch in kept.follow(numbered):
        Observer(captured.graph, kept.watch).run(
            *arguments(captured.graph, batch), enable_io_processing=False
        )
    seen = kept.seen()
    assert seen is not None
    assert seen.numbers.tolist() == [8, 9, 10, 11]
