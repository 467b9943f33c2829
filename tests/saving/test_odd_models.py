"""Saved models of shared and strided weights, every kind of buffer and nested outputs."""

from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import fxprune


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


class Odd(nn.Module):
    """Shared and strided weights, every kind of buffer, nested inputs and outputs, constants that
    JSON has no type for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(3, 16, 3),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.Conv2d(16, 3, 3),
        )
        self.twice = nn.Linear(12, 12)
        self.tied = nn.Linear(12, 12)
        self.tied.weight = self.twice.weight
        self.register_buffer("mask", torch.ones(1, dtype=torch.bool), persistent=False)
        self.register_buffer("phase", torch.tensor([1 + 2j, 3 - 1j]))
        self.a = self.a.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.c.weight.requires_grad_(False)

    def forward(self, x: Tensor, more: dict[str, Tensor], *, scale: Tensor) -> dict[str, Any]:
        y = self.c(torch.relu(self.b(torch.relu(self.a(x)))))
        y = (
            y.masked_fill(torch.zeros_like(y, dtype=torch.bool), float("-inf"))
            .to(torch.float64)
            .to(torch.float32)
        )
        z = self.tied(self.twice(more["z"])) * self.mask
        return OrderedDict(
            y=y * scale,
            pair=Pair(z, more["w"].contiguous(memory_format=torch.contiguous_format)),
            rest=[z.abs(), None],
            phase=torch.view_as_real(self.get_buffer("phase")).sum() + z,
        )


def odd_call() -> dict[str, Any]:
    return {
        "x": torch.randn(4, 3, 10, 10),
        "more": {"z": torch.randn(4, 12), "w": torch.randn(4, 2)},
        "scale": torch.ones(4, 1, 1, 1),
    }


def test_odd_things_survive(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Odd()
    calls = [odd_call() for _ in range(8)]
    small = fxprune.compress(
        model,
        calls,
        flops=0.7,
        method="magnitude",
        progress=False,
        decision=lambda a, b: torch.ones(len(a["y"]), dtype=torch.bool),
    )
    fxprune.save(small, tmp_path / "odd.safetensors")
    again = fxprune.load(tmp_path / "odd.safetensors")
    with torch.no_grad():
        expected, found = small(**calls[0]), again(**calls[0])
    assert isinstance(found, OrderedDict)
    assert list(found) == ["y", "pair", "rest", "phase"]
    assert torch.equal(expected["y"], found["y"])
    assert isinstance(found["pair"], tuple)
    assert torch.equal(expected["pair"].first, found["pair"][0])
    assert found["rest"][1] is None
    assert any(
        "a Pair among the inputs or outputs becomes a plain tuple" in n
        for n in fxprune.report(again).notes
    )
    assert again.get_parameter("tied.weight") is again.get_parameter("twice.weight")
    assert "tied.weight" not in load_file(
        tmp_path / "odd.safetensors"
    ) or "twice.weight" not in load_file(tmp_path / "odd.safetensors")
    assert set(again.state_dict()) == set(small.state_dict())
    for name, tensor in (*small.named_parameters(), *small.named_buffers()):
        loaded = operator_path(again, name)
        assert (loaded.dtype, loaded.stride(), loaded.requires_grad) == (
            tensor.dtype,
            tensor.stride(),
            tensor.requires_grad,
        ), name


def operator_path(module: nn.Module, name: str) -> Tensor:
    return dict((*module.named_parameters(), *module.named_buffers()))[name]
