"""Which optimizer takes the steps."""

import pytest
import torch
from torch import nn

from fxprune.recovery.optimizer import (
    PER_NUMBER,
    PER_SIDE,
    SLOWER,
    longest_side,
    make_optimizer,
    set_rate,
    settle,
)
from fxprune.recovery.training import RATES, Training


def cost(side: int, *shape: int) -> float:
    return PER_NUMBER * side * float(torch.Size(shape).numel()) + PER_SIDE * side**3


def test_sides_are_turned_from_the_shortest_on_while_they_cost_little() -> None:
    shapes = [(16, 64, 3), (16,), (32, 16)]
    spent = [
        cost(3, 16, 64, 3),
        cost(16, 16, 64, 3) + cost(16, 32, 16),
        cost(32, 32, 16),
        cost(64, 16, 64, 3),
    ]
    for count, longest in enumerate((0, 3, 16, 32, 64)):
        assert longest_side(shapes, sum(spent[:count]) + 1e-3) == longest
    assert longest_side(shapes, 1e12) == 64


def test_of_sides_of_one_length_all_are_turned_or_none() -> None:
    shapes = [(8, 8)] * 3
    assert longest_side(shapes, 5.9 * cost(8, 8, 8)) == 7
    assert longest_side(shapes, 6.1 * cost(8, 8, 8)) == 8


def test_dense_layers_on_few_examples_are_left_to_adam() -> None:
    shapes = [(1024, 784), (1024,), (1024, 1024), (10, 1024)]
    per_example = sum(2 * torch.Size(s).numel() for s in shapes if len(s) > 1)
    training, longest = settle(Training(), shapes, 32 * 4 * per_example)
    assert (training.optimizer, longest) == ("adam", 0)
    assert training.peak == RATES["adam"]
    given = Training(optimizer="sgd")
    assert settle(given, shapes, 1e20) == (given, 0)
    assert settle(Training(), shapes, 1e20) == (Training(), 1024)


@pytest.mark.parametrize("name", ["soap", "adam", "sgd"])
def test_what_is_of_single_channels_steps_back_one_time_later(name: str) -> None:
    net = nn.Sequential(
        nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, groups=6), nn.Conv1d(6, 3, 5)
    )
    training = Training(optimizer=name, weight_decay=0.1)
    _, optimizer = make_optimizer([*net.parameters()], training, 1e12)
    optimizer.load_state_dict(optimizer.state_dict())
    rates = dict[str, list[float]]()
    decays = dict[str, float]()
    for factor in (1.0, SLOWER, SLOWER**2):
        set_rate(optimizer, 2.0, factor)
        for group in optimizer.param_groups:
            for name, own in net.named_parameters():
                if any(own is p for p in group["params"]):
                    rates.setdefault(name, []).append(group["lr"])
                    decays[name] = group["weight_decay"]
    matrices, vectors = (
        ["0.weight", "3.weight"],
        ["0.bias", "1.weight", "1.bias", "2.bias", "3.bias"],
    )
    assert {n: r for n, r in rates.items() if n in matrices} == dict.fromkeys(
        matrices, [2.0, 2.0 * SLOWER, 2.0 * SLOWER**2]
    )
    assert {n: r for n, r in rates.items() if n not in matrices} == dict.fromkeys(
        [*vectors, "2.weight"], [2.0, 2.0, 2.0 * SLOWER]
    )
    assert {n for n, decay in decays.items() if not decay} == set(vectors)


@pytest.mark.parametrize("name", ["soap", "adam", "sgd"])
def test_every_optimizer_comes_down_a_narrow_valley(name: str) -> None:
    """Only matrices decay, and a second training from the state before any step is the first."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 3))
    start = {n: t.clone() for n, t in net.state_dict().items()}
    x = torch.randn(16, 2, 8, 8) * torch.tensor([1.0, 0.05])[None, :, None, None]
    y = torch.randn(16, 3, 4, 4)
    training = Training(optimizer=name, weight_decay=0.1)
    training, optimizer = make_optimizer([*net.parameters()], training, 1e12)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    fresh, ends = optimizer.state_dict(), list[float]()
    for _ in range(2):
        net.load_state_dict(start)
        optimizer.load_state_dict(fresh)
        losses = list[float]()
        for _ in range(60):
            loss = (net(x) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0]
        ends.append(losses[-1])
    assert ends[0] == ends[1]
