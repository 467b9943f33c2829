"""Compressing submodules in place inside models that cannot be captured whole."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import fxprune


class Detector(nn.Module):
    """A backbone and a head whose output depends on the data in shape."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.head(self.backbone(x).mean((2, 3)))
        result: Tensor = scores[scores.amax(1) > 0.0]
        return result


@pytest.fixture
def detector() -> Detector:
    """Untrained, seeded."""
    torch.manual_seed(0)
    return Detector().eval()


def test_whole_model_cannot_be_captured(detector: Detector) -> None:
    """The error names the way out."""
    with pytest.raises(fxprune.CaptureError, match="targets="):
        fxprune.compress(detector, torch.randn(40, 3, 8, 8), flops=0.5, progress=False)


def test_target_is_compressed_in_place(detector: Detector) -> None:
    """The backbone shrinks inside a copy that still runs as a whole; its masked original gives the
    same.
    """
    images = torch.randn(60, 3, 8, 8)
    small = fxprune.compress(detector, images, flops=0.5, targets=["backbone"], progress=False)
    backbone = small.get_submodule("backbone")
    before, after = fxprune.report(backbone).flops
    assert after <= 0.5 * before
    assert small(images).shape[1] == 5
    with torch.no_grad():
        torch.testing.assert_close(
            fxprune.masked(detector.backbone, backbone)(images),
            backbone(images),
            rtol=1e-4,
            atol=1e-5,
        )
    assert detector.get_parameter("backbone.0.weight").shape[0] == 16


def test_the_whole_model_has_a_report(detector: Detector) -> None:
    """Rows under the target's name; parameters of everything; also after a pickle."""
    images = torch.randn(60, 3, 8, 8)
    small = fxprune.compress(
        detector, images, flops=0.5, targets=["backbone"], method="uniform", progress=False
    )
    found = fxprune.report(small)
    before, after = (sum(p.numel() for p in model.parameters()) for model in (detector, small))
    assert found.params == (before, after)
    assert found.flops == fxprune.report(small.get_submodule("backbone")).flops
    assert [row.name for row in found.groups] == ["backbone.0"]
    assert found.agreement is None
    assert "backbone" in found.notes[0]
    assert found.asked == {"flops": "0.5", "method": "uniform", "targets": "backbone"}
    assert "backbone.0" in str(found)
    assert len(found.summary().splitlines()) == 10
    assert "no calibration example" not in found.summary(), "there were some, for the part"
    assert "next       compare the whole model" in found.summary()
    for again in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert fxprune.report(again) == found


def test_unknown_target(detector: Detector) -> None:
    """A name that matches nothing is an error that lists names."""
    with pytest.raises(fxprune.PlanError, match="matches no submodule"):
        fxprune.compress(
            detector, torch.randn(40, 3, 8, 8), flops=0.5, targets=["neck"], progress=False
        )


def test_agreement_needs_the_whole_model(detector: Detector) -> None:
    """Agreement is about the model's decisions, not a target's outputs."""
    with pytest.raises(fxprune.BudgetError, match="targets="):
        fxprune.compress(
            detector, torch.randn(40, 3, 8, 8), agreement=0.9, targets=["backbone"], progress=False
        )


def test_sweep_reuses_one_calibration(detector: Detector) -> None:
    """Every budget gives a model of its own, each within its limit."""
    curve = fxprune.sweep(
        detector.backbone,
        torch.randn(60, 3, 8, 8),
        budgets=(0.7, 0.4),
        method="uniform",
        progress=False,
    )
    for flops, small in curve.items():
        before, after = fxprune.report(small).flops
        assert after <= flops * before
    reports = [fxprune.report(small) for small in curve.values()]
    points = reports[0].curve
    assert [point.flops for point in points] == [r.flops[1] / r.flops[0] for r in reports]
    assert all(r.curve == points for r in reports)


def test_the_callers_random_state_stays(detector: Detector) -> None:
    """Loaders that shuffle draw from it."""
    loader: Any = DataLoader(list(torch.randn(64, 3, 8, 8)), batch_size=16, shuffle=True)  # type: ignore[arg-type]
    before = torch.get_rng_state()
    fxprune.compress(
        detector, loader, flops=0.6, method="magnitude", targets="backbone", progress=False
    )
    assert torch.equal(torch.get_rng_state(), before)
