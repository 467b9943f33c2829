"""A model that stays on the CPU while its work is done on another device, where there never is more
than one layer's weights.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

import fxprune
from fxprune.calibrate import running
from fxprune.errors import BudgetError, UnsupportedError
from tests import streams
from tests.nets import images, session_of, tiny
from tests.pretended import PRETENDED, pretended

LENGTH, WORDS = 6, 20
HOME = torch.device("cpu")


class Images(nn.Module):
    """Convolutions there and back, BatchNorm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.back, self.last = nn.ConvTranspose2d(8, 8, 2), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.back(torch.relu(self.norm(self.first(x)))))
        logits: Tensor = self.head(torch.relu(self.last(x)).mean((2, 3)))
        return logits


class Causal(nn.Module):
    """Tables of tokens and places, a mask made in forward, a buffer and a plain tensor."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, 12), nn.Embedding(LENGTH, 12)
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)
        self.up, self.head = nn.Linear(12, 24), nn.Linear(24, 4)
        self.register_buffer("scale", torch.tensor([12**-0.5]))
        self.shift = torch.linspace(-1, 1, 12)

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        x = self.words(ids) + self.places(torch.arange(length, device=ids.device)) + self.shift
        q, k, v = self.qkv(x).chunk(3, -1)
        hidden = torch.full((length, length), -1e9, device=ids.device).triu(1)
        x = x + self.out(((q @ k.mT) * self.scale + hidden).softmax(-1) @ v)
        logits: Tensor = self.head(F.gelu(self.up(x))).mean(1) + torch.zeros(4)
        return logits


class Recurring(nn.Module):
    """A GRU between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(5, 8), nn.Linear(10, 4)
        self.cell = nn.GRU(8, 10, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.cell(torch.relu(self.first(x)))[0][:, -1])
        return logits


def _drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _words(count: int) -> Tensor:
    return torch.randint(WORDS, (count, LENGTH), generator=torch.Generator().manual_seed(0))


NETS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "convolutions": (Images, images(96)),
    "constants": (Causal, _words(96)),
    "streams": (streams.net, streams.inputs(160)),
    "recurrent": (Recurring, _drawn(64, 7, 5)),
}


def make(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    build, x = NETS[name]
    return build().eval(), x


def places(module: nn.Module) -> set[torch.device]:
    return {t.device for t in (*module.parameters(), *module.buffers())}


class Traffic:
    """What was brought to the device of tensors with the shapes of a model's.

    Attributes:
        largest: bytes that were there at one time.
        brought: how many tensors.
    """

    def __init__(self, model: nn.Module):
        self.largest = self.brought = 0
        self._there: list[tuple[StorageWeakRef, int]] = []
        self._shapes = {tuple(p.shape) for p in model.parameters() if p.dim() > 1}
        self._bring = running.bring

    def __call__(self, value: Tensor, device: torch.device) -> Tensor:
        found = self._bring(value, device)
        if tuple(value.shape) in self._shapes:
            storage = found.untyped_storage()
            self._there = [(ref, size) for ref, size in self._there if not ref.expired()]
            self._there.append((StorageWeakRef(storage), storage.nbytes()))
            self.largest = max(self.largest, sum(size for _, size in self._there))
            self.brought += 1
        return found


@contextmanager
def watched(model: nn.Module) -> Iterator[Traffic]:
    """Two devices, and what goes from one to the other."""
    traffic = Traffic(model)
    with pytest.MonkeyPatch.context() as patch, pretended():
        patch.setattr(running, "bring", traffic)
        yield traffic


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convolutions", "constants", "streams"])
def test_the_result_is_that_of_the_cpu(name: str) -> None:
    """And never more than the largest layer's weights are on the device."""
    net, x = make(name)
    asked: dict[str, Any] = {"flops": 0.7, "decision": "argmax", "progress": False}
    before = {key: value.clone() for key, value in net.state_dict().items()}
    alone = fxprune.compress(net, x.split(32), **asked)
    with watched(net) as traffic:
        small = fxprune.compress(net, x.split(32), device=PRETENDED, **asked)
        assert places(small) == places(net) == {HOME}
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    largest = max(p.numel() * p.element_size() for p in net.parameters())
    assert traffic.largest == largest
    assert traffic.brought > 100
    assert not any("derivative" in note for note in fxprune.report(small).notes)
    assert fxprune.plan_of(small).widths == fxprune.plan_of(alone).widths
    assert fxprune.plan_of(small).kept == fxprune.plan_of(alone).kept
    with torch.no_grad():
        torch.testing.assert_close(small(x), alone(x), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(fxprune.masked(net, small)(x), small(x), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_other_verbs_work_there() -> None:
    net, loader = tiny(), list(images(96).split(32))
    told: dict[str, Any] = {"decision": "argmax", "progress": False}
    with pretended():
        plan = fxprune.plan(net, loader, flops=0.6, effort=1, device=PRETENDED, **told)
        applied = fxprune.apply(net, plan, loader, device=PRETENDED, **told)
        lowered = fxprune.factorize(net, loader, params=0.9, device=PRETENDED, **told)
        assert places(applied) == places(lowered) == {HOME}
    assert plan == fxprune.plan(net, loader, flops=0.6, effort=1, **told)


@pytest.mark.parametrize(("name", "room"), [("recurrent", True), ("convolutions", False)])
def test_sensitivities_are_those_of_the_cpu(
    name: str, room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the backward pass reads is let go and brought again; sums go where there is room."""
    monkeypatch.setattr("fxprune.calibrate.spill._room", lambda device, size: room)
    net, x = make(name)
    known = session_of(net, [x]).statistics
    wanted = known.sensitivities
    with watched(net) as traffic:
        known.calibration.device = PRETENDED
        found = replace(known).sensitivities
        matrices = [value for value in found.values() if len(value) > 1]
        assert {value.device for value in matrices} == {PRETENDED if room else HOME}
        found = {site: value.cpu() for site, value in found.items()}
    torch.testing.assert_close(found, wanted)
    weights = [p.numel() * p.element_size() for p in net.parameters() if p.dim() > 1]
    # A recurrent layer is one call, of both its weights.
    assert traffic.largest <= (sum(weights) if name == "recurrent" else max(weights))


def test_the_callers_class_is_compared_where_it_is() -> None:
    net = tiny()
    with pretended():
        small = fxprune.compress(
            net,
            images(64),
            flops=0.8,
            method="magnitude",
            keep_class=True,
            decision="argmax",
            device=PRETENDED,
            progress=False,
        )
        assert type(small) is type(net)
        assert places(small) == {HOME}


def test_where_the_model_is_nothing_is_brought() -> None:
    with pretended():
        session = session_of(tiny().to(PRETENDED), images(64), device=PRETENDED)
        assert session.statistics.calibration.device is None


@pytest.mark.parametrize("device", ["nonsense", "meta", 3, "mtia:7"])
def test_no_device(device: Any) -> None:
    with pytest.raises(UnsupportedError, match="is no device that works here"):
        fxprune.compress(tiny(), images(64), flops=0.8, device=device)


def test_a_model_in_several_places_is_refused() -> None:
    with pretended():
        net = tiny()
        net.head.to(PRETENDED)
        with pytest.raises(UnsupportedError, match="lies on cpu, xpu:0"):
            session_of(net, images(64), device=PRETENDED)


@pytest.mark.parametrize("asked", [{"latency": 0.8}, {"flops": 0.8, "round_to": "auto"}])
def test_time_counts_where_the_workload_says(asked: dict[str, Any]) -> None:
    with pretended():
        told: dict[str, Any] = {"decision": "argmax", "progress": False, "device": PRETENDED}
        with pytest.raises(BudgetError, match="nobody says where time counts"):
            fxprune.compress(tiny(), images(64), **asked, **told)
        session_of(
            tiny(),
            images(64),
            device=PRETENDED,
            round_to=8,
            workload=fxprune.Workload(device="cpu"),
        )
