"""Copies that lie where the model lies, and what writes to them."""

import copy

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.capture.batch import make_batch
from fxprune.capture.copying import run_copy
from fxprune.capture.export import capture
from tests.nets import images, tiny


class Renormalized(nn.Module):
    """Its table is written to in every call."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 16, max_norm=1.0)
        self.body = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.body(self.table(ids).mean(1))
        return found


class Counting(nn.Module):
    """Scales its weight in place, and says nothing of what goes wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                self.weight.view(3)[:2].mul_(2)
        except Exception:
            return x
        return x * self.weight


def places(model: nn.Module) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}


def test_a_captured_graph_lies_where_the_model_lies() -> None:
    net = tiny()
    graph = capture(net, make_batch((images(2),), {})).graph
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    assert weights <= places(graph)


@pytest.mark.parametrize("own", [False, True])
def test_a_result_shares_no_memory_with_the_model(own: bool) -> None:
    net, x = tiny(), images(64)
    for flops in (0.9, 1.0):
        small = fxprune.compress(
            net, x, flops=flops, progress=False, decision="close", keep_class=own
        )
        assert not places(net) & places(small)


def test_results_of_one_session_share_no_memory() -> None:
    net = tiny()
    curve = fxprune.sweep(
        net, images(64), budgets=(1.0, 0.9), decision="close", effort=1, progress=False
    )
    held = [places(module) for module in (net, *curve.values())]
    assert len(set().union(*held)) == sum(map(len, held))


def test_a_model_that_writes_to_its_weights_is_left_alone() -> None:
    model = Renormalized()
    before = copy.deepcopy(model.state_dict())
    ids = torch.randint(20, (64, 5), generator=torch.Generator().manual_seed(0))
    small = fxprune.compress(model, ids, flops=0.8, progress=False, decision="close")
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    with torch.no_grad():
        assert small(ids).shape == (64, 4)


def test_what_a_run_hides_is_seen() -> None:
    model = Counting()
    found = run_copy(model, lambda own: own(torch.ones(3)).tolist())
    assert found == [2, 2, 1]
    assert model.weight.tolist() == [1, 1, 1]
