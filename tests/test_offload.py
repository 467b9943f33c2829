"""A model that stays on the CPU while its work is done on another device, where there never is more
than one layer's weights.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

import fxprune
from fxprune.calibrate import running
from fxprune.errors import BudgetError, UnsupportedError
from tests import rotations, streams
from tests.nets import images, tiny
from tests.pretended import PRETENDED, pretended

LENGTH, WORDS = 6, 20


class Causal(nn.Module):
    """Token and place tables, a mask made in forward, a buffer and a plain tensor."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, 12), nn.Embedding(LENGTH, 12)
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)
        self.up, self.head = nn.Linear(12, 24), nn.Linear(24, WORDS)
        self.register_buffer("scale", torch.tensor([12**-0.5]))
        self.shift = torch.linspace(-1, 1, 12)

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        x = self.words(ids) + self.places(torch.arange(length, device=ids.device)) + self.shift
        q, k, v = self.qkv(x).chunk(3, -1)
        hidden = torch.full((length, length), -1e9, device=ids.device).triu(1)
        x = x + self.out(((q @ k.mT) * self.scale + hidden).softmax(-1) @ v)
        logits: Tensor = self.head(F.gelu(self.up(x))) + torch.zeros(WORDS)
        return logits


class Recurring(nn.Module):
    """A GRU between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.cell, self.head = (
            nn.Linear(5, 8),
            nn.GRU(8, 10, batch_first=True),
            nn.Linear(10, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.cell(torch.relu(self.first(x)))[0][:, -1])
        return logits


def _drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _words(count: int) -> Tensor:
    return torch.randint(WORDS, (count, LENGTH), generator=torch.Generator().manual_seed(0))


NETS: dict[str, tuple[Callable[[], nn.Module], Tensor, dict[str, Any]]] = {
    "cnn": (tiny, images(128), {"decision": "argmax"}),
    "transformer": (
        lambda: rotations.encoder().eval(),
        rotations.examples(rotations.encoder, 128).float(),
        {"decision": "close"},
    ),
    "constants": (Causal, _words(96), {"decision": "close"}),
    "recurrent": (Recurring, _drawn(96, 7, 5), {"decision": "close"}),
    "streams": (streams.net, streams.inputs(160), {"decision": "close"}),
    "mixed": (
        rotations.convolutions,
        rotations.examples(rotations.convolutions, 96).float(),
        {"decision": "close"},
    ),
}


@pytest.fixture(autouse=True)
def _two_devices() -> Iterator[None]:
    with pretended():
        yield


def make(name: str) -> tuple[nn.Module, Tensor, dict[str, Any]]:
    torch.manual_seed(0)
    build, x, told = NETS[name]
    return build().eval(), x, {"flops": 0.7, "progress": False, **told}


def places(module: nn.Module) -> set[torch.device]:
    return {t.device for t in (*module.parameters(), *module.buffers())}


class Traffic:
    """What lies on the device of what was brought there from `watched`, whenever more is brought.

    Attributes:
        largest: bytes at one time.
        brought: how many tensors, in all.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, model: nn.Module):
        self.largest = self.brought = 0
        self._there: list[tuple[StorageWeakRef, int]] = []
        shapes = {tuple(p.shape) for p in model.parameters()}
        original = running.bring

        def bring(value: Tensor, device: torch.device) -> Tensor:
            found = original(value, device)
            if tuple(value.shape) in shapes:
                storage = found.untyped_storage()
                self._there = [(ref, n) for ref, n in self._there if not ref.expired()]
                self._there.append((StorageWeakRef(storage), storage.nbytes()))
                self.largest = max(self.largest, sum(n for _, n in self._there))
                self.brought += 1
            return found

        monkeypatch.setattr(running, "bring", bring)


@pytest.mark.parametrize("name", NETS)
def test_the_result_is_that_of_the_cpu_alone(name: str) -> None:
    net, x, told = make(name)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    alone = fxprune.compress(net, x.split(32), **told)
    small = fxprune.compress(net, x.split(32), device=PRETENDED, **told)
    assert places(small) == places(net) == {torch.device("cpu")}
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert fxprune.plan_of(small).widths == fxprune.plan_of(alone).widths
    assert fxprune.report(small).agreement is not None
    with torch.no_grad():
        torch.testing.assert_close(small(x), alone(x), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(fxprune.masked(net, small)(x), small(x), rtol=1e-3, atol=1e-4)
