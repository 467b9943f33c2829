"""Lengths and image sizes: free where the model allows it, said and checked where it does not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

import fxprune
from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.errors import ArgumentError, CalibrationError, CaptureError
from tests.nets import Net


class Reader(nn.Module):
    """Reads at most 40 tokens, and their padding mask, with one attention layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 16), nn.Embedding(40, 16)
        self.register_buffer("numbers", torch.arange(40).expand(1, -1), persistent=False)
        self.mix, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        length = ids.shape[1]
        x = self.words(ids) + self.places(self.numbers[:, :length])  # type: ignore[index]
        q, k, v = self.mix(x).view(len(ids), length, 3, 4, 4).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v, mask[:, None, None, :].bool())
        x = x + self.out(seen.transpose(1, 2).reshape(len(ids), length, 16))
        x = x + self.down(self.up(x).relu())
        return {"logits": self.head(x[:, 0])}


def reader() -> nn.Module:
    torch.manual_seed(0)
    return Reader().eval()


def text(count: int, length: int, seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    mask = torch.ones(count, length, dtype=torch.int64)
    mask[::2, length * 3 // 4 + 1 :] = 0
    return {"ids": torch.randint(0, 50, (count, length), generator=draw), "mask": mask}


FAST: dict[str, Any] = {"flops": 0.7, "method": "channels", "progress": False}
CLOSE: dict[str, Any] = FAST | {"decision": "close"}


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(24,), (24, 17, 31)], ids=["one", "several"])
def test_texts_of_any_length(lengths: tuple[int, ...], tmp_path: Path) -> None:
    model = reader()
    batches = [text(10, lengths[i % len(lengths)], i) for i in range(9)]
    small = fxprune.compress(model, batches, **CLOSE)
    full = fxprune.masked(model, small)
    fxprune.save(small, tmp_path / "small.safetensors")
    for result in (small, fxprune.load(tmp_path / "small.safetensors")):
        with torch.no_grad():
            for length in (1, 2, 17, 24, 40):
                batch = text(3, length, seed=9)
                torch.testing.assert_close(full(**batch), result(**batch), rtol=1e-4, atol=1e-5)
        with pytest.raises(ArgumentError, match=r"^ids has the size 41 along axis 1: above 40 the"):
            result(**text(3, 41))
    assert any("ids may have a size of at most 40" in n for n in fxprune.report(small).notes)


def sequences(*lengths: int, width: int = 4) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(8, length, width, generator=draw) for length in lengths]


def over_time(inside: Callable[[Tensor], Tensor]) -> Net:
    torch.manual_seed(0)
    return Net(
        lambda net, x: net.head(inside(net.first(x).relu()).mean(1)),
        first=nn.Linear(4, 16),
        head=nn.Linear(16, 3),
    )


@pytest.mark.parametrize(
    "inside",
    [
        lambda x: functional.pad(x, (0, 0, 0, -x.shape[1] % 8)) if x.shape[1] % 8 else x,
        lambda x: x * 2 if x.shape[1] == 16 else x,
    ],
    ids=["windows of eight", "another branch"],
)
def test_a_length_that_the_model_branches_on_is_not_free(
    inside: Callable[[Tensor], Tensor],
) -> None:
    model = over_time(inside)
    small = fxprune.compress(model, sequences(*[16] * 8), **CLOSE)
    assert fxprune.masked(model, small)(sequences(16)[0]).shape == (8, 3)
    with pytest.raises(CalibrationError, match="come in several sizes"):
        fxprune.compress(model, sequences(*[16, 13] * 4), **CLOSE)


def test_a_length_up_to_which_the_model_is_another_is_checked() -> None:
    model = over_time(lambda x: x * 2 if x.shape[1] < 20 else x)
    small = fxprune.compress(model, sequences(*[16, 13] * 4), **CLOSE)
    with torch.no_grad():
        x = sequences(19)[0]
        torch.testing.assert_close(fxprune.masked(model, small)(x), small(x))
    with pytest.raises(ArgumentError, match="has the size 20 along axis 1: above 19 the original"):
        small(sequences(20)[0])


def test_lengths_of_features_that_differ_between_batches() -> None:
    model = over_time(lambda x: x + torch.arange(x.shape[1])[:, None])
    small = fxprune.compress(model, sequences(*[16, 13, 9] * 3), **CLOSE)
    with torch.no_grad():
        for x in sequences(5, 30):
            torch.testing.assert_close(fxprune.masked(model, small)(x), small(x))


def waves(net: Any, x: Tensor) -> Tensor:
    hidden = net.first(x[:, None]).relu()
    result: Tensor = net.head((hidden + torch.arange(hidden.shape[-1])).mean(2))
    return result


def test_dynamic_shapes_are_torch_exports() -> None:
    torch.manual_seed(0)
    model = Net(waves, first=nn.Conv1d(1, 16, 5), head=nn.Linear(16, 3))
    x = torch.randn(64, 40)
    fixed = fxprune.compress(model, x, **CLOSE)
    with pytest.raises(RuntimeError):
        fixed(x[:, :30])
    for shapes in ({"x": {1: Dim.DYNAMIC}}, ({0: Dim("n"), 1: Dim("t", min=8, max=64)},)):
        small = fxprune.compress(model, x, dynamic_shapes=shapes, **CLOSE)
        with torch.no_grad():
            torch.testing.assert_close(fxprune.masked(model, small)(x[:3, :30]), small(x[:3, :30]))
        assert len(fxprune.analyze(model, x, dynamic_shapes=shapes).groups) == 1
        fxprune.plan(model, x, flops=0.8, dynamic_shapes=shapes, progress=False)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (3, "^dynamic_shapes=3: give the free axes by the names"),
        ({"y": {1: Dim.AUTO}}, "names y; the calibration batches give the arguments x"),
        ({"x": {"time": Dim.AUTO}}, "gives x .*: give a dict of axes"),
        ({"x": {2: Dim.DYNAMIC}}, "^torch.export cannot leave the axes"),
    ],
)
def test_dynamic_shapes_that_cannot_be(shapes: Any, message: str) -> None:
    model = over_time(lambda x: x)
    for call in (
        lambda: fxprune.analyze(model, sequences(7)[0], dynamic_shapes=shapes),
        lambda: fxprune.compress(model, sequences(7, 7), dynamic_shapes=shapes, **FAST),
    ):
        with pytest.raises(CaptureError, match=message):
            call()


class Patches(nn.Module):
    """Attends over the positions of images, whose sizes it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.mix = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 48)
        self.up, self.head = nn.Linear(16, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).relu()
        n, c, h, w = tokens.shape
        tokens = tokens.reshape(n, c, h * w).mT
        q, k, v = self.mix(tokens).chunk(3, -1)
        tokens = tokens + functional.scaled_dot_product_attention(q, k, v)
        result: Tensor = self.head(self.up(tokens).relu().mean(1))
        return result


def test_image_sizes_that_differ_are_freed_beside_attention() -> None:
    torch.manual_seed(0)
    model = Patches().eval()
    batches = [torch.randn(8, 3, size, 16) for size in (16, 24, 16, 24, 16, 24)]
    small = fxprune.compress(model, batches, **CLOSE)
    with torch.no_grad():
        for batch in (*batches[:2], torch.randn(2, 3, 32, 32)):
            torch.testing.assert_close(fxprune.masked(model, small)(batch), small(batch))


class Stepping(nn.Module):
    """A loop over the steps of its input, which a trace unrolls."""

    def __init__(self, tokens: bool) -> None:
        super().__init__()
        self.read = nn.Embedding(9, 8) if tokens else nn.Linear(5, 8)
        self.recur, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = self.read(x).unbind(1)
        for step in rest:
            first = torch.tanh(step + self.recur(first))
        logits: Tensor = self.head(first)
        return logits


@pytest.mark.parametrize("tokens", [False, True])
def test_a_loop_over_steps_answers_for_their_number_alone(tokens: bool) -> None:
    torch.manual_seed(0)
    model = Stepping(tokens).eval()
    given = torch.randint(0, 9, (3, 6)) if tokens else torch.randn(3, 6, 5)
    found = capture(model, make_batch((given[:2, :4],), {}))
    with torch.no_grad():
        torch.testing.assert_close(found.graph(given[:, :4]), model(given[:, :4]))
        for steps in (3, 5):
            with pytest.raises(ArgumentError, match=f"x has the size {steps} along axis 1"):
                found.graph(given[:, :steps])
    assert any("size 4 along axis 1" in note for note in found.notes)


def test_a_size_that_a_trace_holds_and_the_model_too_is_left_to_them() -> None:
    """Images of another size pass where the trace does what the model does."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    graph = capture(model, make_batch((torch.randn(2, 3, 8, 8),), {})).graph
    x = torch.randn(3, 3, 9, 12)
    with torch.no_grad():
        torch.testing.assert_close(graph(x), model(x))


class StepsFirst(nn.Module):
    """A recurrent layer over the axis of the examples, from states for as many rows as `rows`."""

    def __init__(self, rows: Callable[[Tensor], int] | None) -> None:
        super().__init__()
        self.recur, self.head, self.rows = nn.LSTM(5, 8), nn.Linear(8, 3), rows

    def forward(self, x: Tensor) -> Tensor:
        states = None
        if self.rows is not None:
            states = (torch.zeros(1, self.rows(x), 8), torch.zeros(1, self.rows(x), 8))
        logits: Tensor = self.head(self.recur(x, states)[0])
        return logits


def test_states_that_a_recurrent_layer_makes_follow_its_input() -> None:
    model = StepsFirst(None).eval()
    graph = capture(model, make_batch((torch.randn(2, 7, 5),), {})).graph
    with torch.no_grad():
        for steps, rows in ((2, 8), (5, 7), (3, 1)):
            x = torch.randn(steps, rows, 5)
            torch.testing.assert_close(graph(x), model(x))


@pytest.mark.parametrize("rows", [lambda x: int(x.shape[1]), lambda x: 7], ids=["read", "written"])
def test_states_of_a_size_that_the_trace_holds_are_refused_before_a_kernel_trusts_them(
    rows: Callable[[Tensor], int],
) -> None:
    """oneDNN's LSTM writes past its memory, which ends the process."""
    model = StepsFirst(rows).eval()
    x = torch.randn(2, 7, 5)
    graph = capture(model, make_batch((x,), {})).graph
    with torch.no_grad():
        torch.testing.assert_close(graph(x), model(x))
    with pytest.raises(ArgumentError, match="x has the size 8 along axis 1"):
        graph(torch.randn(2, 8, 5))
