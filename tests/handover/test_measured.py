"""Errors of layers on held-out examples, against outputs computed by hooks."""

import pytest
import torch
from torch import Tensor, nn

import fxprune
from tests.nets import Net, images


def outputs(model: nn.Module, name: str, inputs: Tensor) -> Tensor:
    """What a layer gives."""
    found: list[Tensor] = []
    hook = model.get_submodule(name).register_forward_hook(lambda m, args, out: found.append(out))
    with torch.no_grad():
        model(inputs)
    hook.remove()
    return found[0]


class Plain(nn.Module):
    """Three layers, the first two behind a rectifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(torch.relu(self.second(torch.relu(self.first(x)))))
        return result


@pytest.fixture
def plain() -> nn.Module:
    """Untrained, seeded."""
    torch.manual_seed(0)
    return Plain().eval()


def test_the_error_is_that_of_the_layers_own_outputs(plain: nn.Module) -> None:
    rows = torch.randn(100, 6, generator=torch.Generator().manual_seed(1))
    small = fxprune.compress(
        plain, rows, flops=0.5, method="uniform", decision="argmax", progress=False
    )
    found = {row.name: row.measured for row in fxprune.report(small).groups}
    kept = fxprune.plan_of(small).kept
    assert found["first"] == pytest.approx(0, abs=1e-10), "kept channels of the first are exact"
    assert found["second"] is not None
    wanted = outputs(plain, "second", rows)[:, kept["second.weight"][0]]
    given = outputs(small, "second", rows)
    errors = (given - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
    # On all of the examples, of which the report saw some that were held out.
    assert found["second"] == pytest.approx(float(errors), rel=0.7)


def test_what_a_fit_adds_lies_in_the_mean_of_the_batch_norm_behind() -> None:
    """Of a convolution without a bias the fit moves that mean."""
    torch.manual_seed(0)
    net = Net(
        lambda s, x: s.head(torch.relu(s.norm(s.second(torch.relu(s.first(x))))).mean((2, 3))),
        first=nn.Conv2d(3, 12, 3),
        second=nn.Conv2d(12, 8, 3, bias=False),
        norm=nn.BatchNorm2d(8),
        head=nn.Linear(8, 4),
    ).eval()
    inputs = images(300)
    small = fxprune.compress(
        net, inputs, flops=0.2, method="uniform", decision="argmax", progress=False
    )
    (found,) = (row.measured for row in fxprune.report(small).groups if row.name == "second")
    kept = fxprune.plan_of(small).kept["second.weight"][0]
    wanted, given = outputs(net, "norm", inputs)[:, kept], outputs(small, "norm", inputs)
    spread = (wanted - wanted.mean((0, 2, 3), keepdim=True)).square().sum()
    assert not torch.equal(
        small.get_buffer("norm.running_mean"), net.get_buffer("norm.running_mean")[kept]
    )
    assert found == pytest.approx(float((given - wanted).square().sum() / spread), rel=0.2)


def test_layers_that_became_two_are_measured(plain: nn.Module) -> None:
    rows = torch.randn(100, 6, generator=torch.Generator().manual_seed(1))
    small = fxprune.factorize(plain, rows, params=0.7, decision="argmax", progress=False)
    rows_of = [row for row in fxprune.report(small).groups if "as two layers" in row.name]
    assert rows_of
    assert all(row.measured is not None and 0 < row.measured < 1 for row in rows_of)
