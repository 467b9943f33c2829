"""What capture leaves free, and under which names."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.capture.batch import make_batch
from fxprune.capture.export import Captured, capture
from fxprune.errors import ArgumentError
from fxprune.label.analysis import analyze_graph
from tests.blocks import conv
from tests.nets import images, loader


def captured(model: nn.Module, *shape: int) -> Captured:
    return capture(model, make_batch((torch.zeros(2, *shape),), {}))


class OpenEnded(nn.Module):
    """Its forward takes more than it names, as detectors' do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)

    def forward(self, x: Tensor, *args: Tensor, **kwargs: Tensor) -> Tensor:
        result: Tensor = self.conv(x)
        return result


class Anchored(nn.Module):
    """Keeps what it made for the last shape it saw, as detectors keep their anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)
        self.seen: torch.Size | None = None
        self.grid: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.seen != x.shape:
            self.seen, self.grid = x.shape, torch.linspace(0, 1, x.shape[-1])
        assert self.grid is not None
        result: Tensor = self.conv(x) + self.grid
        return result


@pytest.mark.parametrize("model", [OpenEnded(), Anchored()], ids=["open-ended", "anchored"])
def test_the_batch_size_stays_free(model: nn.Module) -> None:
    found = captured(model, 3, 4, 4)
    assert not any("batch size" in note for note in found.notes)
    images = torch.randn(5, 3, 4, 4)
    torch.testing.assert_close(found.graph(images), model(images))


class Branching(nn.Module):
    """Takes another way from many examples on, of which so many would fill any memory."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear(x.mean(-1, keepdim=True))
        return result if x.shape[0] <= 60_000 else 2 * result


def test_a_trace_of_many_examples_takes_no_memory() -> None:
    assert captured(Branching(), 1 << 20).most == 60_000


class Assigned(nn.Module):
    """Beside attention, torch writes a slice that is assigned to with the example's sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.read = conv(3, 4), nn.Linear(4, 4)
        self.mixed = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).clone()
        y[:, 0::3] = y[:, 0::3].relu() + 1
        tokens = y.flatten(2).transpose(1, 2)
        read = self.read(tokens)
        result: Tensor = self.mixed(tokens, read, read)[0].mean(1)
        return result


def test_an_assigned_slice_is_no_promise_of_other_numbers_of_examples() -> None:
    model = Assigned().eval()
    found = captured(model, 3, 4, 4)
    x = torch.randn(3, 3, 4, 4)
    if found.fixed is None:  # as later versions of torch may
        torch.testing.assert_close(found.graph(x), model(x))
    else:
        with pytest.raises(ArgumentError, match="takes batches of 2 examples only"):
            found.graph(x)


class Strided(nn.Module):
    """Reads a number from its own tensor, and makes a grid in the type of its features."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.stride = conv(3, 8), conv(8, 2), torch.tensor([8.0, 16.0])

    def forward(self, x: Tensor) -> Tensor:
        features = self.first(x)
        grid = torch.arange(x.shape[-1]).type_as(features) + torch.full(
            (x.shape[-1],),
            self.stride[1],  # type: ignore[call-overload]
        )
        result: Tensor = self.second(features.relu()) * grid
        return result


def test_numbers_in_tensors_and_types_of_tensors_stop_nothing() -> None:
    found = captured(Strided(), 3, 4, 4)
    model, images = Strided(), torch.randn(3, 3, 4, 4)
    assert not any("item" in str(node.target) for node in found.graph.graph.nodes)
    assert (
        str(analyze_graph(found.graph, 2))
        == "first: 8 | first.weight[0] first.bias[0] -> second.weight[1]"
    )
    torch.testing.assert_close(captured(model, 3, 4, 4).graph(images), model(images))


class CrossAttention(nn.Module):
    """Queries, keys and values from different tensors: one packed weight, cut in three."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.attend, self.head = (
            nn.Linear(6, 8),
            nn.MultiheadAttention(8, 2, batch_first=True),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.enter(x)
        result: Tensor = self.head(
            self.attend(tokens + 1, tokens, tokens.relu(), need_weights=False)[0]
        )
        return result


def test_parts_of_a_weight_keep_its_name() -> None:
    names = {name for name, _ in captured(CrossAttention(), 5, 6).graph.named_parameters()}
    assert names == {name for name, _ in CrossAttention().named_parameters()}


class ReadTwice(nn.Linear):
    """Reads its weight computed and as it is."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(nn.functional.linear(x, 2 * self.weight), self.weight)


@pytest.mark.slow
def test_a_weight_with_other_readers_is_not_folded() -> None:
    """However long the network behind them is."""
    model = nn.Sequential(ReadTwice(4, 4, bias=False), *[nn.Tanh() for _ in range(1200)])
    found = captured(model, 4)
    assert found.notes == ()
    assert {name for name, _ in found.graph.named_parameters()} == {"0.weight"}


def test_a_model_that_views_runs_channels_last(tmp_path: Path) -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = (
                nn.Conv2d(3, 8, 3),
                nn.Conv2d(8, 8, 3),
                nn.Linear(128, 4),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.second(torch.relu(self.first(x))))
            logits: Tensor = self.head(x.view(len(x), -1))
            return logits

    small = fxprune.compress(Views(), loader(), flops=0.6, progress=False)
    fxprune.save(small, tmp_path / "small.safetensors")
    for model in (small, fxprune.load(tmp_path / "small.safetensors")):
        expected = model(images(5))
        last = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        torch.testing.assert_close(last(images(5).to(memory_format=torch.channels_last)), expected)


def test_masks_of_infinities_are_no_error() -> None:
    """A padding mask becomes -inf, is reshaped, and added to the scores."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(50, 16)
            self.layers = nn.TransformerEncoder(
                nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True), 1
            )
            self.head = nn.Linear(16, 3)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            logits: Tensor = self.head(
                self.layers(self.embedding(ids), src_key_padding_mask=mask).mean(1)
            )
            return logits

    ids = torch.randint(0, 50, (40, 7), generator=torch.Generator().manual_seed(0))
    model, batch = Encoder().eval(), {"ids": ids, "mask": ids < 5}
    small = fxprune.compress(model, [batch], flops=0.8, progress=False)
    torch.testing.assert_close(
        fxprune.masked(model, small)(**batch), small(**batch), atol=1e-4, rtol=1e-4
    )
