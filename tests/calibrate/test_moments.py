"""Second moments of what consumers read, against the products of what they were given."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fxprune.calibrate.batching import in_order
from fxprune.calibrate.moments import collect_moments, sites
from fxprune.calibrate.observe import require_finite
from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.errors import CalibrationError
from fxprune.label.analysis import analyze_graph
from tests.nets import Tiny, images, tiny


class Twice(nn.Module):
    """One weight that is called twice, and a convolution of two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared = nn.Linear(3, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.shared(torch.tanh(self.shared(self.first(x))))))
        return out


def own_tiny() -> Tiny:
    """The tiny network, whose weights a test may change."""
    model = tiny()
    assert isinstance(model, Tiny)
    return model


def test_every_position_of_every_example_counts() -> None:
    model, x = own_tiny().double(), images(24).double()
    batches = [make_batch((part,), {}) for part in x.split(10)]
    captured = capture(model, batches[0])
    analysis = analyze_graph(captured.graph, 10)
    found = collect_moments(captured.graph, analysis, in_order(batches), 24)
    assert (
        set(found)
        == set(sites(analysis))
        == {
            ("second.weight", 1),
            ("hidden.weight", 1),
            ("head.weight", 1),
        }
    )
    with torch.no_grad():
        read = torch.relu(model.norm(model.first(x)))
        rows = read.movedim(1, -1).reshape(-1, 8)
        pooled = torch.relu(model.second(read)).mean((2, 3))
    for site, wanted in ((("second.weight", 1), rows), (("hidden.weight", 1), pooled)):
        own = found[site]
        assert (own.rows, own.examples) == ((len(wanted),), 24)
        np.testing.assert_allclose(own.grams[0], (wanted.T @ wanted).numpy(), rtol=1e-10)


def test_calls_of_one_weight_are_added_and_examples_counted_once() -> None:
    torch.manual_seed(0)
    model, x = Twice().double().eval(), torch.randn(9, 3, dtype=torch.float64)
    batch = make_batch((x,), {})
    captured = capture(model, batch)
    own = collect_moments(captured.graph, analyze_graph(captured.graph, 9), in_order([batch]), 9)
    with torch.no_grad():
        first = model.first(x)
        second = torch.tanh(model.shared(first))
    found = own["shared.weight", 1]
    assert (found.rows, found.examples) == ((18,), 9)
    wanted = (first.T @ first + second.T @ second).numpy()
    np.testing.assert_allclose(found.grams[0], wanted, rtol=1e-10)


def test_of_many_positions_a_share_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch gives its share of what is wanted, to within the noise of the draw."""
    monkeypatch.setattr("fxprune.calibrate.moments.POSITIONS", 1200)
    monkeypatch.setattr("fxprune.calibrate.moments.POSITIONS_PER_CHANNEL", 1)
    batches = [make_batch((part,), {}) for part in images(60).split(30)]
    captured = capture(tiny(), batches[0])
    analysis = analyze_graph(captured.graph, 30)
    drawn = collect_moments(captured.graph, analysis, in_order(batches), 60)["second.weight", 1]
    assert drawn.rows == (1200,)
    again = collect_moments(captured.graph, analysis, in_order(batches), 60)["second.weight", 1]
    assert np.array_equal(drawn.grams[0], again.grams[0])
    other = collect_moments(captured.graph, analysis, in_order(batches), 60, seed=1)[
        "second.weight", 1
    ]
    assert not np.array_equal(drawn.grams[0], other.grams[0])
    monkeypatch.setattr("fxprune.calibrate.moments.POSITIONS", 10**6)
    whole = collect_moments(captured.graph, analysis, in_order(batches), 60)["second.weight", 1]
    mean = whole.grams[0] / whole.rows[0]
    np.testing.assert_allclose(drawn.grams[0] / 1200, mean, atol=0.1 * mean.max())


def test_moments_of_parts_add_up() -> None:
    batches = [make_batch((part,), {}) for part in images(16).split(8)]
    captured = capture(tiny(), batches[0])
    analysis = analyze_graph(captured.graph, 8)
    whole = collect_moments(captured.graph, analysis, in_order(batches), 16)
    parts = [collect_moments(captured.graph, analysis, in_order([batch]), 16) for batch in batches]
    for site, own in whole.items():
        both = parts[0][site] + parts[1][site]
        assert (both.rows, both.examples) == (own.rows, own.examples)
        for a, b in zip(both.grams, own.grams, strict=True):
            np.testing.assert_array_equal(a, b)


def test_no_batch_gives_sums_of_nothing() -> None:
    batch = make_batch((images(4),), {})
    captured = capture(tiny(), batch)
    found = collect_moments(captured.graph, analyze_graph(captured.graph, 4), in_order([]), 4)
    for own in found.values():
        assert (own.rows, own.examples) == ((0,), 0)
        assert not own.grams[0].any()


@pytest.mark.parametrize(
    ("value", "kind"), [(torch.nan, "NaN"), (torch.inf, "infinite")], ids=["nan", "inf"]
)
def test_what_is_not_finite_names_the_layer(value: float, kind: str) -> None:
    model, batch = own_tiny(), make_batch((images(4),), {})
    model.second.get_parameter("bias").data[3] = value
    captured = capture(model, batch)
    analysis = analyze_graph(captured.graph, 4)
    with pytest.raises(CalibrationError, match=rf"^second: conv2d_1 gives {kind} values"):
        require_finite(captured.graph, batch)
    with pytest.raises(CalibrationError, match=rf"^second: conv2d_1 gives {kind} values"):
        collect_moments(captured.graph, analysis, in_order([batch]), 4)


def test_moments_that_overflow_are_an_error_although_all_is_finite() -> None:
    model, batch = own_tiny(), make_batch((images(4),), {})
    model.first.weight.data.mul_(1e25)
    captured = capture(model, batch)
    with pytest.raises(CalibrationError, match="too large for their second moments"):
        collect_moments(captured.graph, analyze_graph(captured.graph, 4), in_order([batch]), 4)


class Bucketed(nn.Module):
    """Log-spaced positions and a division, whose infinite values a `where` discards."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 24), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu()
        hidden = torch.where(hidden > 0, 1 / hidden, hidden)
        positions = torch.arange(-2, 2)
        far = (torch.log(positions.abs().float()) * 2).long()
        result: Tensor = self.second(hidden) + torch.where(positions.abs() < 2, positions, far)
        return result


def test_infinite_values_that_are_discarded_are_no_error() -> None:
    batch = make_batch((torch.randn(4, 6, generator=torch.Generator().manual_seed(0)),), {})
    require_finite(capture(Bucketed(), batch).graph, batch)


def test_what_reaches_a_layer_is_named_by_where_it_began() -> None:
    class Divided(Bucketed):
        def forward(self, x: Tensor) -> Tensor:
            hidden = (1 / self.first(x).relu()).unflatten(1, (4, 6)).flatten(1)
            result: Tensor = self.second(hidden)
            return result

    batch = make_batch((torch.randn(4, 6, generator=torch.Generator().manual_seed(0)),), {})
    with pytest.raises(CalibrationError, match=r"^model: reciprocal gives infinite values"):
        require_finite(capture(Divided(), batch).graph, batch)
