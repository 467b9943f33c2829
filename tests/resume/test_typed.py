"""Frozen values come back as they were, of the types that are asked for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fxprune.resume.typed import UNKEPT, decode, encode, on_device


@dataclass(frozen=True)
class Inner:
    numbers: np.ndarray
    tensor: Tensor | None


@dataclass(frozen=True)
class Outer:
    inner: dict[tuple[str, int], Inner]
    pairs: tuple[tuple[int, float], ...]
    words: list[str]
    anything: list[Any]
    shares: Mapping[str, float]
    secret: str = field(default="", metadata=UNKEPT)


VALUE = Outer(
    {("a", 0): Inner(np.arange(6).reshape(2, 3)[:, ::-1], None), ("b", 1): Inner(np.eye(2), None)},
    ((1, 0.1), (2, math.inf)),
    ["x", ""],
    [torch.ones(2), 3, None, "y"],
    {"z": 1.0},
    "nothing for a file",
)


def again(value: Any, kind: Any) -> Any:
    tensors: dict[str, Tensor] = {}
    return decode(kind, encode(value, tensors), tensors)


def test_another_process_has_its_own_device() -> None:
    """The first one's accelerator, which its tensors name, is none of another's."""
    value, tensors = {"a": (torch.ones(2), torch.zeros(3))}, dict[str, Tensor]()
    told = encode(value, tensors)
    told[0][1][1]["device"] = "cuda:0"
    found = decode(dict[str, tuple[Tensor, Tensor]], on_device(told, "meta"), tensors)
    assert [tensor.device.type for tensor in found["a"]] == ["cpu", "meta"]
    assert found["a"][1].shape == (3,)
    assert told[0][1][1]["device"] == "cuda:0"


def test_a_nest_comes_back() -> None:
    found = again(VALUE, Outer)
    assert found.inner.keys() == VALUE.inner.keys()
    for key, inner in VALUE.inner.items():
        np.testing.assert_array_equal(found.inner[key].numbers, inner.numbers)
        assert found.inner[key].numbers.dtype == inner.numbers.dtype
        assert found.inner[key].tensor is None
    assert (found.pairs, found.words, found.shares) == (VALUE.pairs, VALUE.words, VALUE.shares)
    assert torch.equal(found.anything[0], torch.ones(2))
    assert found.anything[1:] == [3, None, "y"]
    assert found.secret == ""
    assert math.isnan(again(math.nan, float))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(3, 4).T,
        torch.randn(6)[::2],
        torch.randn(3, 1).expand(3, 4),
        torch.zeros(0, 3),
        torch.tensor(1.5),
        torch.tensor([True, False]),
        torch.ones(2, dtype=torch.bfloat16),
    ],
)
def test_a_tensor_lies_in_memory_as_it_did(tensor: Tensor) -> None:
    found = again(tensor, Tensor)
    assert found.dtype == tensor.dtype
    assert torch.equal(found, tensor)
    order = sorted(range(tensor.dim()), key=lambda axis: -tensor.stride()[axis])
    if tensor.permute(order).is_contiguous():
        assert found.stride() == tensor.stride()


def test_an_array_lies_in_memory_as_it_did() -> None:
    value = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    assert again(value, np.ndarray).flags.f_contiguous


def test_what_has_no_type_is_not_kept() -> None:
    with pytest.raises(TypeError, match="object cannot be kept"):
        encode([object()], {})


@pytest.mark.parametrize(
    ("kind", "value"),
    [(int, "3"), (int, True), (str, 1), (list[int], 3), (dict[str, int], [["a", "b"]]), (Inner, 1)],
)
def test_another_type_is_an_error(kind: Any, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        decode(kind, value, {})
