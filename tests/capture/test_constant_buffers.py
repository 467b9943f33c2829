"""Shapes, flags and scales that a model holds in buffers, as importers of ONNX make them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import _get_current_function_mode_stack

import fxprune
from fxprune.errors import CaptureError
from tests.nets import Net


class Reshape(nn.Module):
    """A tensor and a shape: 0 stands for the tensor's own size."""

    def forward(self, x: Tensor, shape: Tensor) -> Tensor:
        if torch.any(shape == 0):
            sizes = [x.shape[i] if n == 0 else int(n) for i, n in enumerate(shape)]
            return torch.reshape(x, sizes)
        return torch.reshape(x, torch.Size(shape))


class Resize(nn.Module):
    """Scales as numbers with a fraction."""

    def forward(self, x: Tensor, scales: Tensor) -> Tensor:
        if scales[0] != 1 or scales[1] != 1:
            raise NotImplementedError
        return functional.interpolate(x, scale_factor=scales[2:].tolist())


class Imported(nn.Module):
    """A convolutional net whose shapes are constants in buffers."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.second, self.head = nn.Conv2d(16, 8, 3), nn.Linear(8 * 36, 4)
        self.resize, self.reshape = Resize(), Reshape()
        self.register_buffer("scales", torch.tensor([1.0, 1.0, 1.5, 1.5]))
        self.register_buffer("shape", torch.tensor([rows, -1]))
        self.register_buffer("flag", torch.tensor(True))
        self.register_buffer("order", torch.arange(8).flip(0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu() if self.flag else x
        x = self.resize(self.second(x), self.scales).relu()[:, self.order]
        logits: Tensor = self.head(self.reshape(x, self.shape))
        return logits


@pytest.mark.parametrize("rows", [0, 4], ids=["own size", "a number"])
def test_what_stands_in_buffers_is_a_constant(rows: int) -> None:
    torch.manual_seed(0)
    model, x = Imported(rows).eval(), torch.randn(80, 3, 8, 8)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    small = fxprune.compress(model, x.split(4), flops=0.7, decision="close", progress=False)
    assert len(small.get_parameter("first.weight")) < 16
    with torch.no_grad():
        for batch in (x[:4],) if rows else (x[:1], x[:7]):
            torch.testing.assert_close(fxprune.masked(model, small)(batch), small(batch))
    said = "the batch size could not be left free: the result takes batches of 4 examples only"
    assert (said in fxprune.report(small).notes) == bool(rows)
    assert {n: b.shape for n, b in before.items()} == {n: b.shape for n, b in model.named_buffers()}


class Shuffled(nn.Module):
    """Computes the shapes of its reshapes as tensors, as importers of ONNX do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3)
        self.head, self.reshape = nn.Linear(8 * 16, 4), Reshape()
        self.register_buffer("zero", torch.tensor([0]))
        self.register_buffer("two", torch.tensor([2]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        zero: Any = self.zero
        two: Any = self.two
        shape = torch.tensor(x.shape)
        rows, channels = shape[zero], torch.gather(shape, 0, two - 1)
        half = torch.div(channels, two, rounding_mode="trunc")
        parts = torch.cat([rows, two, half, shape[2:]])
        x = self.reshape(self.reshape(x, parts).transpose(1, 2), shape)
        x = self.second(x).relu()
        logits: Tensor = self.head(self.reshape(x, torch.stack([rows[0], 0 * rows[0] + 8 * 16])))
        return logits


def test_shapes_that_are_computed_as_tensors_leave_the_batch_free() -> None:
    torch.manual_seed(0)
    model, x = Shuffled().eval(), torch.randn(60, 3, 8, 8)
    small = fxprune.compress(
        model, x, flops=0.7, method="channels", decision="close", progress=False
    )
    assert len(small.get_parameter("second.weight")) < 8
    assert not any("batch size" in note for note in fxprune.report(small).notes)
    with torch.no_grad():
        for batch in (x[:1], x[:7]):
            torch.testing.assert_close(fxprune.masked(model, small)(batch), small(batch))


def test_sizes_of_parts_that_stand_in_buffers() -> None:
    """torch.export takes them for sizes that nobody knows."""

    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(6, 24), nn.Linear(8, 8), nn.Linear(24, 4)
            self.register_buffer("sizes", torch.tensor([16, 8]))

        def forward(self, x: Tensor) -> Tensor:
            sizes: Any = self.sizes
            left, right = self.first(x).relu().split(sizes.tolist(), 1)
            logits: Tensor = self.head(torch.cat([left, self.second(right)], 1))
            return logits

    torch.manual_seed(0)
    model, x = Parts().eval(), torch.randn(60, 6)
    small = fxprune.compress(
        model, x, flops=0.6, method="channels", decision="close", progress=False
    )
    assert any("its buffers hold sizes" in note for note in fxprune.report(small).notes)
    assert len(small.get_parameter("first.weight")) < 24
    with torch.no_grad():
        for batch in (x[:1], x[:7]):
            torch.testing.assert_close(fxprune.masked(model, small)(batch), small(batch))


def test_a_buffer_that_is_written_is_none() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(6, 16), nn.Linear(16, 4)
            self.register_buffer("calls", torch.tensor(0))

        def forward(self, x: Tensor) -> Tensor:
            calls: Any = self.calls
            calls += 1
            scale = 2 if bool(calls > 3) else 1
            result: Tensor = self.head(self.first(x).relu() * scale)
            return result

    with pytest.raises(CaptureError, match="torch.export could not capture Counting"):
        fxprune.analyze(Counting(), torch.randn(4, 6))
    assert not _get_current_function_mode_stack()  # nothing of the attempts stays


def test_an_index_buffer_keeps_its_name() -> None:
    torch.manual_seed(0)
    model = Imported(0).eval()
    small = fxprune.compress(
        model, torch.randn(40, 3, 8, 8), flops=0.8, decision="close", progress=False
    )
    assert "order" in dict(small.named_buffers())
    assert "order" in small.state_dict()


def fixed(rows: int) -> Net:
    """Takes batches of this size only."""
    torch.manual_seed(0)
    return Net(
        lambda net, x: net.head(net.second(net.first(x).relu()).relu().reshape(rows, 16)),
        first=nn.Linear(6, 24),
        second=nn.Linear(24, 16),
        head=nn.Linear(16, 4),
    )


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        *(pytest.param(rows, 192, marks=pytest.mark.slow) for rows in (1, 2, 4)),
        (4, 60),
        (32, 192),
    ],
)
def test_a_batch_that_cannot_be_freed_is_the_loaders(rows: int, count: int) -> None:
    model, x = fixed(rows), torch.randn(count, 6)
    assert len(fxprune.analyze(model, x[:rows]).groups) == 2
    small = fxprune.compress(model, x.split(rows), flops=0.6, decision="close", progress=False)
    found = fxprune.report(small)
    assert found.agreement is not None
    assert found.agreement.examples == count // 5, "copies that fill a batch do not count"
    said = f"the batch size could not be left free: the result takes batches of {rows} examples"
    assert any(note.startswith(said) for note in found.notes)
    with torch.no_grad():
        torch.testing.assert_close(fxprune.masked(model, small)(x[:rows]), small(x[:rows]))
    with pytest.raises(fxprune.errors.ArgumentError, match=f"takes batches of {rows} examples"):
        small(x[: rows + 1])


@pytest.mark.parametrize("rows", [1, 2, 4, 16])
def test_a_branch_on_the_batch_takes_the_loaders(rows: int) -> None:
    """The model runs on any of these, but does something of its own on each."""
    torch.manual_seed(0)
    model = Net(
        lambda net, x: net.head(net.first(x).relu() + {1: 0, 2: 1, 4: 2, 16: 3}[len(x)]),
        first=nn.Linear(6, 24),
        head=nn.Linear(24, 4),
    )
    x = torch.randn(96, 6)
    small = fxprune.compress(model, x.split(rows), flops=0.6, decision="close", progress=False)
    assert len(fxprune.analyze(model, x[:rows]).groups) == 1
    with torch.no_grad():
        torch.testing.assert_close(fxprune.masked(model, small)(x[:rows]), small(x[:rows]))
