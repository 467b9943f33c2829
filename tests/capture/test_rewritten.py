"""In-place slices beside batch norms, and operators that read another tensor's shape."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.graph.operators import operator_name
from tests.capture.test_export import captured


class Posed(nn.Module):
    """Writes into some channels of its last convolution in place, as pose heads do."""

    def __init__(self, part: slice) -> None:
        super().__init__()
        self.part = part
        self.first, self.norm = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.second, self.third = nn.Conv2d(16, 16, 3), nn.Conv2d(16, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.norm(self.first(x)).relu()).relu()
        y = self.third(x).clone()
        y[:, self.part] = y[:, self.part].sigmoid()
        result: Tensor = self.head(y.mean((2, 3)))
        return result


@pytest.mark.parametrize("part", [slice(0, None, 3), slice(1, 3)], ids=["strided", "part"])
def test_an_in_place_slice_pins_its_own_channels_only(part: slice) -> None:
    torch.manual_seed(0)
    model, x = Posed(part).eval(), torch.randn(60, 3, 8, 8)
    found = fxprune.analyze(model, x[:2])
    pinned = {pin.parameter: pin.reason for pin in found.pinned}
    names = {group.name for group in found.groups}
    if part.step:
        assert names == {"first", "second"}
        assert pinned["third.weight"].startswith("slice along the channel axis")
    else:
        assert names == {"first", "second", "third"}
    small = fxprune.compress(model, x, flops=0.6, method="channels", progress=False)
    assert isinstance(small.norm, nn.BatchNorm2d), "as without the slice"
    with torch.no_grad():
        for batch in (x[:1], x[:5]):
            torch.testing.assert_close(fxprune.masked(model, small)(batch), small(batch))


SHAPED: dict[str, Callable[[Tensor], Tensor]] = {
    "view_as": lambda y: y.view_as(torch.zeros(len(y), 24 * 16)),
    "view_as_own": lambda y: y.view_as(y.flatten(1)),
    "reshape_as": lambda y: y.reshape_as(y.new_empty(len(y), 24 * 16)),
    "expand_as": lambda y: y.mean((2, 3), keepdim=True).expand_as(y).flatten(1),
    "expand_as_zeros": lambda y: (
        y.mean((2, 3), keepdim=True).expand_as(torch.zeros(len(y), 24, 4, 4)).flatten(1)
    ),
    "empty_like": lambda y: torch.empty_like(y).copy_(y).flatten(1),
    "type_as": lambda y: y.type_as(torch.zeros(3)).flatten(1),
}


class Shaped(nn.Module):
    """Brings features into the shape of another tensor."""

    def __init__(self, shape: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.shape = shape
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3)
        self.head = nn.Linear(24 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.shape(self.second(self.first(x).relu()).relu()))
        return result


@pytest.mark.parametrize("name", SHAPED)
def test_shapes_of_other_tensors_pin_nothing(name: str) -> None:
    torch.manual_seed(0)
    model, x = Shaped(SHAPED[name]).eval(), torch.randn(60, 3, 8, 8)
    assert {g.name for g in fxprune.analyze(model, x[:2]).groups} == {"first", "second"}
    small = fxprune.compress(model, x, flops=0.6, method="channels", progress=False)
    with torch.no_grad():
        for batch in (x[:1], x[:5]):
            torch.testing.assert_close(fxprune.masked(model, small)(batch), small(batch))


def test_a_norm_that_was_taken_apart_is_one_call_again() -> None:
    found = captured(Posed(slice(1, 3)), 3, 8, 8)
    names = [operator_name(n.target) for n in found.graph.graph.nodes if n.op == "call_function"]
    assert "aten.batch_norm" in names
    assert not any("native_batch_norm" in name for name in names)
