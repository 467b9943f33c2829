"""The sequential fit of weights that several calls share."""

from typing import Any
from weakref import ReferenceType, ref

import pytest
import torch
from torch import Tensor, nn

from fxprune.calibrate.spill import Spill
from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.fit.lockstep import Fits, fit_in_lockstep, order_layers
from fxprune.linalg.refit import Fit, refit
from tests.blocks import conv
from tests.fit.reductions import record


class Branches(nn.Module):
    """Two branches with the same weights, one after the other; their difference feeds the head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second, self.head = (
            conv(3, 12, 3),
            nn.BatchNorm2d(12),
            conv(12, 12, 3),
            conv(12, 4),
        )

    def branch(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.norm(self.first(x)))))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.branch(x) - self.branch(x.flip(3) + 0.5))
        return out


class Repeated(nn.Module):
    """One layer applied to its own output."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.again, self.leave = conv(3, 8, 3), conv(8, 8, 3), conv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.again(torch.tanh(self.again(torch.tanh(self.enter(x))))))
        out: Tensor = self.leave(x)
        return out


class Placed(nn.Module):
    """One layer applied to a table of the model's own, before or after the images."""

    def __init__(self, table_first: bool) -> None:
        super().__init__()
        self.enter, self.both, self.leave = conv(3, 8, 3), conv(8, 8, 3), conv(8, 4)
        self.table, self.table_first = nn.Parameter(torch.randn(1, 8, 6, 6)), table_first

    def forward(self, x: Tensor) -> Tensor:
        given = [torch.relu(self.enter(x)), self.table]
        first, second = map(self.both, given[::-1] if self.table_first else given)
        out: Tensor = self.leave(torch.tanh(first + second))
        return out


def _on_disk(store: Spill) -> int:
    return len(store._files._taken)


def fitted(model: nn.Module, kept: float, memory: float = 1e9) -> tuple[Fits, float, float]:
    """What was fitted, and the relative output error before and after, on images that were not
    fitted on.
    """
    images = torch.randn(240, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    fit, test = images[:200], images[200:]
    case = record(model, fit, kept, memory)

    def error() -> float:
        with torch.no_grad():
            expected = model(test)
            found = case.reduction.reduced(test)
            return float((found - expected).square().sum() / expected.square().sum())

    before = error()
    recorded = case.store._held, _on_disk(case.store)
    fits = fit_in_lockstep(case.reduction, case.recording)
    assert (case.store._held, _on_disk(case.store)) == recorded
    return fits, before, error()


def test_what_did_not_change_is_not_fitted() -> None:
    torch.manual_seed(0)
    fits, before, after = fitted(Branches(), kept=1.0)
    assert (fits, before, after) == (Fits(), 0.0, 0.0)


def test_a_weight_of_two_branches_is_fitted_on_both() -> None:
    torch.manual_seed(0)
    fits, before, after = fitted(Branches(), kept=0.75)
    assert {"first.weight", "second.weight", "head.weight"} <= fits.ridges.keys()
    assert after < 0.8 * before


def test_activations_on_disk_are_fitted_alike() -> None:
    """What a fit put aside, in memory or on disk, is gone when it ends."""
    torch.manual_seed(0)
    model = Branches()
    near, far = (fitted(model, kept=0.75, memory=memory) for memory in (1e9, 3e5))
    assert near[1:] == far[1:]


def test_a_layer_on_its_own_output_stays_as_it_is() -> None:
    """There is no moment at which the inputs of both calls are known and neither output is used."""
    torch.manual_seed(0)
    fits, before, after = fitted(Repeated(), kept=0.75)
    assert "again.weight" not in fits.ridges
    assert "leave.weight" in fits.ridges
    assert after < before


@pytest.mark.parametrize("table_first", [False, True])
def test_a_layer_on_a_table_is_fitted_on_what_it_is_given(table_first: bool) -> None:
    torch.manual_seed(0)
    fits, before, after = fitted(Placed(table_first), kept=0.75)
    assert {"both.weight", "leave.weight"} <= fits.ridges.keys()
    assert after < before


def test_calls_of_a_weight_stand_together_where_their_order_allows() -> None:
    for model, together in ((Branches(), {"first", "second", "head"}), (Repeated(), {"enter"})):
        graph = capture(model, make_batch((torch.zeros(2, 3, 6, 6),), {})).graph
        order, layers = order_layers(graph)
        assert sorted(order) == sorted(graph.graph.nodes)
        assert {layer.weight.split(".")[0] for layer in layers.values()} >= together
        assert "again.weight" not in {layer.weight for layer in layers.values()}
        for layer in layers.values():
            first = order.index(layer.node)
            assert tuple(order[first : first + len(layer.calls)]) == layer.calls


def test_no_fit_outlives_its_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, all of them together are twice as large as the graph that they are for."""
    made = list[ReferenceType[Fit]]()

    def watched(*args: Any, **options: Any) -> Fit:
        assert not any(fit() for fit in made)
        made.append(ref(found := refit(*args, **options)))
        return found

    monkeypatch.setattr("fxprune.fit.layer.refit", watched)
    fits, _, _ = fitted(Branches(), kept=0.75)
    assert len(made) == len(fits.ridges) == 3
    assert not any(fit() for fit in made)
