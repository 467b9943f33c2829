"""Models that return objects of their own: caches of keys and values beside logits."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

import fxprune
from fxprune.errors import UnsupportedError

FAST: dict[str, Any] = {"flops": 0.8, "decision": "close", "progress": False}


class Level:
    """Keys and values of one layer."""

    def __init__(self, kind: torch.dtype) -> None:
        self.kind, self.filled = kind, False
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.keys, self.values, self.filled = keys, values, True
        return keys, values


class Cache:
    """What a generation loop hands to the next call."""

    def __init__(self, layers: int, kind: torch.dtype) -> None:
        self.levels, self.name = [Level(kind) for _ in range(layers)], "cache"
        self.seen = 0

    def __len__(self) -> int:
        return self.seen


class Causal(nn.Module):
    """One layer of causal attention; it returns logits, and its cache where it is to be used."""

    def __init__(self, use_cache: bool = True) -> None:
        super().__init__()
        self.use_cache = use_cache
        self.words, self.mix = nn.Embedding(30, 16), nn.Linear(16, 48)
        self.up, self.down, self.head = nn.Linear(16, 40), nn.Linear(40, 16), nn.Linear(16, 30)

    def forward(self, ids: Tensor, use_cache: bool | None = None) -> dict[str, Any]:
        x = self.words(ids)
        q, k, v = (part.unflatten(2, (2, 8)).transpose(1, 2) for part in self.mix(x).chunk(3, -1))
        cache = Cache(1, x.dtype)
        k, v = cache.levels[0].update(k, v)
        cache.seen = ids.shape[1]
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + seen.transpose(1, 2).flatten(2)
        x = x + self.down(self.up(x).relu())
        used = self.use_cache if use_cache is None else use_cache
        return {"logits": self.head(x)} | ({"cache": cache} if used else {})


def causal() -> nn.Module:
    torch.manual_seed(0)
    return Causal().eval()


def ids(count: int, length: int) -> Tensor:
    return torch.randint(0, 30, (count, length), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def small() -> nn.Module:
    # Keys and values that stay whole can be compared.
    return fxprune.compress(causal(), [ids(16, 12)] * 4, ignore="mix", **FAST)


def check(result: nn.Module, length: int) -> None:
    """Insist on the cache of the masked original, at any length."""
    batch = ids(3, length)
    with torch.no_grad():
        found, wanted = result(batch), fxprune.masked(causal(), result)(batch)
    torch.testing.assert_close(found["logits"], wanted["logits"], rtol=1e-4, atol=1e-5)
    cache = found["cache"]
    assert type(cache) is Cache
    assert (len(cache), cache.name) == (length, "cache")
    level, expected = cache.levels[0], wanted["cache"].levels[0]
    assert (level.kind, level.filled) == (torch.float32, True)
    torch.testing.assert_close(level.keys, expected.keys, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(level.values, expected.values, rtol=1e-4, atol=1e-5)


def test_a_cache_comes_back_as_what_it_was(small: nn.Module) -> None:
    for length in (12, 5, 20):
        check(small, length)
    assert len(small.get_parameter("up.weight")) < 40
    assert (
        "the output cache is not judged: it is a Cache, state for later calls"
        in fxprune.report(small).notes
    )


def test_copies_and_pickles_return_it_too(small: nn.Module) -> None:
    check(copy.deepcopy(small), 7)
    written = pickle.dumps(small)
    for kind in (Cache, Level):  # as in another process
        del pytree.SUPPORTED_NODES[kind]
    check(pickle.loads(written), 7)


class Window(Level):
    """A level of another class, which a known cache may hold."""


class Windowed(Causal):
    def forward(self, ids: Tensor, use_cache: bool | None = None) -> dict[str, Any]:
        found = super().forward(ids, use_cache)
        level = found["cache"].levels[0]
        made = Window(level.kind)
        made.update(level.keys, level.values)
        found["cache"].levels = [made]
        return found


def test_a_known_cache_of_another_kind_of_levels(small: nn.Module) -> None:
    torch.manual_seed(0)
    found = fxprune.compress(Windowed().eval(), [ids(16, 12)] * 4, **FAST)
    assert type(found(ids(3, 7))["cache"].levels[0]) is Window


def test_a_saved_model_returns_plain_dicts(small: nn.Module, tmp_path: Path) -> None:
    fxprune.save(small, tmp_path / "small.safetensors")
    loaded = fxprune.load(tmp_path / "small.safetensors")
    with torch.no_grad():
        cache, wanted = loaded(ids(3, 7))["cache"], small(ids(3, 7))["cache"]
    torch.testing.assert_close(cache["levels"][0]["keys"], wanted.levels[0].keys)
    assert any("a Cache among" in note for note in fxprune.report(loaded).notes)


def test_state_is_no_decision_to_certify() -> None:
    with pytest.raises(UnsupportedError, match="cannot be judged: it is a Cache, state for later"):
        fxprune.compress(
            causal(), [ids(16, 12)] * 4, flops=0.8, decision={"cache": "close"}, progress=False
        )
