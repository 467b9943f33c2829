"""Every selector: nested orders, errors that do not fall, and the redundant channel first."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxprune.calibrate.batching import in_order
from fxprune.calibrate.moments import InputMoments, Site, collect_moments
from fxprune.capture.batch import Batch, make_batch
from fxprune.capture.export import capture
from fxprune.label.analysis import analyze_graph
from fxprune.label.groups import Analysis
from fxprune.profile.readers import metric, readers
from fxprune.profile.removal import Profile, profile_groups
from fxprune.profile.selectors import SELECTORS
from fxprune.profile.sensitivity import sensitivities
from tests.nets import images, tiny

WIDTH = 10


class Heads(nn.Module):
    """A convolution of two groups, whose channels come in two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, groups=2)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.grouped(torch.relu(self.first(x)))).mean((2, 3)))
        return out


def statistics(
    model: nn.Module, x: Tensor
) -> tuple[GraphModule, Analysis, dict[Site, InputMoments], Batch]:
    batch = make_batch((x,), {})
    graph = capture(model.eval(), batch).graph
    analysis = analyze_graph(graph, batch.size)
    return graph, analysis, collect_moments(graph, analysis, in_order([batch]), batch.size), batch


def profiles(model: nn.Module, x: Tensor, selector: str, weighed: bool = False) -> list[Profile]:
    graph, analysis, moments, batch = statistics(model, x)
    found = sensitivities(graph, analysis, in_order([batch]), seed=0) if weighed else None
    counted: list[int] = []
    dtype = next(graph.parameters()).dtype
    result = profile_groups(graph, analysis, moments, selector, dtype, found, counted.append)
    assert counted == [1] * len(analysis.groups)
    for group, profile in zip(analysis.groups, result, strict=True):
        assert profile.order.shape == group.blocks.shape
        for row, block in zip(profile.order, group.blocks, strict=True):
            assert sorted(row.tolist()) == sorted(block.tolist())
    return result


@pytest.mark.parametrize("weighed", [False, True], ids=["own errors", "sensitivities"])
@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("model", [tiny, Heads])
def test_orders_are_nested_and_errors_do_not_fall(
    model: type[nn.Module], selector: str, weighed: bool
) -> None:
    torch.manual_seed(0)
    for profile in profiles(model(), images(64), selector, weighed):
        width = profile.order.shape[1]
        assert profile.errors.shape == profile.scores.shape == (width,)
        assert profile.errors[0] == 0
        assert (np.diff(profile.errors) >= 0).all()
        assert profile.errors[-1] > 0
        assert 0 <= profile.free < width


class Pair(nn.Module):
    """One group of `WIDTH` channels between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.tanh(self.first(x)))
        return out


def pair(seed: int = 0) -> Pair:
    """In float64."""
    torch.manual_seed(seed)
    return Pair().double()


def inputs(count: int = 400) -> Tensor:
    return torch.randn(count, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def numbered(profile: Profile) -> list[int]:
    """The order as rows of the producing weight."""
    return [int(channel) for channel in profile.order[0] - profile.order.min()]


@pytest.mark.parametrize("selector", ["output-aware", "pivoted-qr"])
def test_the_redundant_channel_goes_first(selector: str) -> None:
    """A copy of another channel can be rebuilt, however large its weights are."""
    model = pair()
    for tensor in (model.first.weight, model.first.bias):
        tensor.data[7] = tensor.data[2]
    (profile,) = profiles(model, inputs(), selector)
    assert numbered(profile)[0] in (2, 7)
    assert profile.errors[1] < 1e-6 < profile.errors[2]
    assert profile.free == (1 if selector == "output-aware" else 0)


def test_dead_channels_are_free() -> None:
    model = pair()
    for channel in (1, 5):
        model.first.weight.data[channel] = model.first.bias.data[channel] = 0
    (profile,) = profiles(model, inputs(), "output-aware", weighed=True)
    assert profile.free == 2
    assert set(numbered(profile)[:2]) == {1, 5}
    assert profile.errors[:3].tolist() == [0, 0, 0]


def test_from_few_rows_no_channel_counts_as_dependent() -> None:
    """As many rows as channels rebuild any channel, of these rows."""
    for rows, free in ((WIDTH, 0), (2 * WIDTH - 1, 0), (2 * WIDTH, 1)):
        model = pair()
        for tensor in (model.first.weight, model.first.bias):
            tensor.data[7] = tensor.data[2]
        (profile,) = profiles(model, inputs(rows), "output-aware")
        assert profile.free == free


def test_output_aware_keeps_what_the_output_depends_on() -> None:
    """A channel that the consumer hardly weighs goes before those it does; pivoted QR, which does
    not look at the consumer, keeps it where it is the largest.
    """
    model = pair()
    model.first.weight.data[4] *= 10
    model.second.weight.data[:, 4] *= 1e-4
    (aware,), (blind,) = (profiles(model, inputs(), s) for s in ("output-aware", "pivoted-qr"))
    assert numbered(aware)[0] == 4
    assert numbered(blind)[-1] == 4


def test_sensitivities_say_which_outputs_count() -> None:
    """The channel that most of one output comes from goes last, or first where that is ignored."""
    model = pair()
    model.second.weight.data[:, 3], model.second.weight.data[0, :] = 0, 0
    model.second.weight.data[0, 3] = 50
    graph, analysis, moments, _ = statistics(model, inputs())
    orders = []
    for first_output in (1.0, 0.0):
        weights = torch.tensor([first_output, 1, 1, 1], dtype=torch.float64)
        (profile,) = profile_groups(
            graph,
            analysis,
            moments,
            "output-aware",
            torch.float64,
            {("second.weight", 1): weights.diag()},
        )
        orders.append(numbered(profile))
    assert orders[0][-1] == 3
    assert orders[1][0] == 3


def test_magnitude_sorts_by_the_producing_weights() -> None:
    model = pair()
    energy = model.first.weight.detach().square().sum(1)
    (profile,) = profiles(model, inputs(), "magnitude")
    wanted = energy.argsort()
    assert numbered(profile) == wanted.tolist()
    shares = energy[wanted].cumsum(0)[:-1] / energy.sum()
    np.testing.assert_allclose(profile.errors[1:], shares.numpy())
    assert profile.scores is profile.errors


@pytest.mark.parametrize("selector", SELECTORS)
def test_without_statistics_magnitude_decides(selector: str) -> None:
    graph, analysis, _, _ = statistics(pair(), inputs())
    own, plain = (
        profile_groups(graph, analysis, {}, s, torch.float64) for s in (selector, "magnitude")
    )
    assert [p.order.tolist() for p in own] == [p.order.tolist() for p in plain]


def test_entries_say_what_they_read() -> None:
    """A selector that says it reads nothing works without it."""
    graph, analysis, moments, batch = statistics(tiny(), images(64))
    found = sensitivities(graph, analysis, in_order([batch]), seed=0)
    for name, entry in SELECTORS.items():
        more, less = (
            profile_groups(graph, analysis, m, name, torch.float32, s)
            for m, s in (
                (moments, found),
                (moments if entry.moments else {}, found if entry.sensitivities else None),
            )
        )
        for a, b in zip(more, less, strict=True):
            assert a.order.tolist() == b.order.tolist()


@pytest.mark.parametrize("groups", [1, 2])
def test_the_metric_is_the_energy_of_output_errors(groups: int) -> None:
    """e^T (W^T G W) e = (W e)^T G (W e), summed over the kernel."""
    torch.manual_seed(0)
    last = nn.Conv2d(8, 6, 3, groups=groups)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), last).double()
    graph, analysis, moments, _ = statistics(model, images(4).double())
    weight = last.weight.detach()
    root = torch.randn(6, 6, dtype=torch.float64)
    sensitivity = root @ root.T
    (own,) = (m for site, m in moments.items() if site[0] == "2.weight")
    for stratum in own.strata:
        error = torch.randn(len(stratum.keys), dtype=torch.float64)
        outputs = slice(stratum.group * 6 // groups, (stratum.group + 1) * 6 // groups)
        at = torch.from_numpy(stratum.columns[:, 0]) - stratum.group * weight.shape[1]
        moved = torch.einsum("ochw,c->hwo", weight[outputs][:, at], error)
        for given, g in (
            (None, torch.eye(6, dtype=torch.float64)),
            (torch.full((1, 1), 3.0, dtype=torch.float64), 3 * torch.eye(6, dtype=torch.float64)),
            (sensitivity, sensitivity),
        ):
            found = torch.from_numpy(metric(weight, 1, stratum, groups, given))
            wanted = torch.einsum("hwo,op,hwp->", moved, g[outputs, outputs], moved)
            assert float(error @ found @ error) == pytest.approx(float(wanted))


def test_readers_number_channels_as_the_group_does() -> None:
    graph, analysis, moments, _ = statistics(tiny(), images(64))
    for group in analysis.groups:
        for reader in readers(graph, analysis, group, moments):
            assert reader.columns.shape == (group.channels,)
            assert reader.scale is None
        assert all(r.scale for r in readers(graph, analysis, group, moments, {}))
