"""Errors at the positions of one example: how far they add up in the model's output."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fxprune.calibrate.batching import in_order
from fxprune.calibrate.moments import InputMoments, Site
from fxprune.calibrate.strata import strata
from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.label.analysis import analyze_graph
from fxprune.profile.coherence import (
    EVERY,
    REPAIRED,
    effects,
    factor,
    foreseen,
    level,
    typical_error,
)
from fxprune.profile.sensitivity import sensitivities
from tests.nets import images, session_of, tiny


def moments_of(rows: Tensor) -> InputMoments:
    gram = (rows.mT @ rows).double().numpy()
    own = strata(np.arange(1, rows.shape[1] + 1))
    return InputMoments(tuple(own), (gram,), (len(rows),), len(rows))


def test_what_the_rest_rebuilds_is_no_error() -> None:
    rows = torch.randn(500, 4, dtype=torch.float64).repeat_interleave(2, 1)
    weight = torch.randn(3, 8, dtype=torch.float64)
    change = typical_error(weight, 1, moments_of(rows))
    assert float((rows @ change.mT).abs().max()) < 1e-3
    assert float(change.abs().max()) > 0.1


def test_every_fourth_channel_is_what_is_missing() -> None:
    """Of independent channels nothing rebuilds any."""
    rows = torch.linalg.qr(torch.randn(500, 8, dtype=torch.float64))[0]
    weight = torch.randn(3, 8, 5, dtype=torch.float64)
    change = typical_error(weight, 1, moments_of(rows))
    expected = torch.zeros_like(weight)
    expected[:, ::EVERY] = -weight[:, ::EVERY]
    torch.testing.assert_close(change, expected)


def test_effects_add_up_within_examples_only() -> None:
    gradient, error = torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4) / 3
    error[1] *= torch.tensor([1.0, -1.0]).repeat(8).view(4, 4)
    assert effects(gradient, error, 2).tolist() == pytest.approx([16, 0])


def test_rows_that_are_no_examples_are_one_sum() -> None:
    assert effects(torch.ones(5, 1), torch.ones(5, 1), 2).tolist() == [5, 0]


def test_an_error_is_foreseen_by_moments() -> None:
    rows, change = torch.randn(50, 4).double(), torch.randn(3, 4).double()
    metric = torch.randn(3, 3).double()
    metric = metric @ metric.mT
    error = rows @ change.mT
    expected = float((error * (error @ metric)).sum(1).mean())
    assert np.isclose(foreseen(change, metric, moments_of(rows), 1), expected)


def test_what_is_not_finite_tells_nothing() -> None:
    assert factor(16.0, 1.0, 2.0) == 2 * 8**REPAIRED
    for cost, fitted, others in [
        (0.0, 1.0, 1.0),
        (1.0, 0.0, 1.0),
        (np.inf, 1.0, 1.0),
        (1.0, np.nan, 1.0),
    ]:
        assert factor(cost, fitted, others) is None


def test_factors_are_of_mean_one() -> None:
    """Sensitivities of layers on whose errors nothing was seen stay what they are."""
    sites = [("a", 1), ("b", 1), ("c", 1)]
    metrics = {site: torch.ones(1, 1) for site in sites}
    level(metrics, dict(zip(sites, (2.0, 8.0, None), strict=True)))
    assert [float(metrics[site]) for site in sites] == [0.5, 2.0, 1.0]


class Pooled(nn.Module):
    """Two layers in front of a pooling, the second called any number of times."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 6, 1), nn.Linear(6, 5)
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        out: Tensor = self.head(sum(self.second(x) for _ in range(self.calls)).mean((2, 3)))
        return out


def cost(images: Tensor, calls: int = 1) -> float:
    """What the typical error of a weight in front of a pooling costs, over what is foreseen."""
    batch, model = make_batch((images,), {}), Pooled(calls).double().eval()
    graph = capture(model, batch).graph
    analysis = analyze_graph(graph, len(images))
    inputs = torch.relu(model.first(images)).detach().movedim(1, -1).reshape(-1, 8)
    known, found = {("second.weight", 1): moments_of(inputs)}, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fxprune.profile.sensitivity.factor", lambda *own: found.append(own))
        sensitivities(graph, analysis, in_order([batch]), 0, moments=known)
    ((cost, fitted, others),) = found
    assert fitted == others
    return float(cost / fitted)


def test_a_pooling_adds_up_what_is_alike() -> None:
    """All of what is the same everywhere, at 36 positions; of noise its mean."""
    generator = torch.Generator().manual_seed(0)
    alike = torch.randn(1024, 4, 1, 1, dtype=torch.float64, generator=generator)
    noise = torch.randn(1024, 4, 6, 6, dtype=torch.float64, generator=generator)
    assert cost(alike.expand(-1, -1, 6, 6).contiguous()) == pytest.approx(36, rel=0.3)
    assert cost(noise) < 12


def test_calls_of_one_weight_add_up() -> None:
    """Sensitivities of calls that do the same are one and one, their errors together cost four."""
    images = torch.randn(64, 4, 6, 6, dtype=torch.float64)
    assert cost(images, calls=2) == pytest.approx(2 * cost(images), rel=1e-3)


def test_every_consumer_of_a_model_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[dict[Site, float | None]] = []
    monkeypatch.setattr(
        "fxprune.profile.sensitivity.level", lambda metrics, known: found.append(known)
    )
    statistics = session_of(tiny(), images(256)).statistics
    assert statistics.sensitivities
    assert set(found[0]) == set(statistics.observed.moments)
    assert all(own is not None and own > 0 for own in found[0].values())


def test_errors_are_larger_on_examples_that_were_not_fitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of few examples an interpolation learns much by heart; the validation split tells."""
    found: list[tuple[float, ...]] = []
    monkeypatch.setattr("fxprune.profile.sensitivity.factor", lambda *own: found.append(own))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 4)).eval()
    statistics = session_of(model, torch.randn(150, 8)).statistics
    _ = statistics.sensitivities
    ((_, fitted, others),) = found
    assert others > 1.3 * fitted
    seen = statistics.observed
    for site, own in seen.moments.items():
        both = own + seen.validating[site]
        assert both.rows == seen.all_moments[site].rows
        np.testing.assert_allclose(both.grams, seen.all_moments[site].grams)
