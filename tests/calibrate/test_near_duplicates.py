"""Frames of scenes are found; photographs, classes and tables of few columns are not."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import fxprune
from fxprune.calibrate.loader import Calibration
from fxprune.calibrate.near_duplicates import too_close, warn_of_near_duplicates
from fxprune.demo.data import load
from fxprune.errors import CalibrationWarning
from tests.nets import images, tiny


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


@pytest.mark.parametrize(
    "x",
    [
        load().calibration,
        functional.adaptive_avg_pool2d(load().images, 7),
        images(1000),
        classes(),
        *(table(2000, columns) for columns in (1, 2, 4, 8, 30)),
    ],
    ids=["photographs", "small ones", "noise", "classes", "1", "2", "4", "8", "30"],
)
def test_independent_examples_give_no_alarm(x: Tensor) -> None:
    x = x.flatten(1)
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
