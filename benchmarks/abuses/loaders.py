"""Calibration loaders of odd kinds, for a model of (N, 6)."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from benchmarks.abuses.subjects import loader, rows


class Rows(Dataset[Tensor]):
    """A data set that is no loader."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, at: int) -> Tensor:
        if not 0 <= at < 40:
            raise IndexError(at)
        return rows()[at]


class Streamed(IterableDataset[Tensor]):
    """A data set without a length."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(rows())


class Reading:
    """Batches as a function of how often they were read."""

    def __init__(self, read: Callable[[int], Any], length: Any = None):
        self._read, self._times, self._length = read, 0, length

    def __iter__(self) -> Iterator[Any]:
        self._times += 1
        return iter(self._read(self._times))

    def __len__(self) -> Any:
        return self._length


def _fails(times: int) -> Iterator[Tensor]:
    yield loader()[0]
    raise OSError("the disk\nis gone")


def _not_an_iterator() -> Any:
    class Odd:
        def __iter__(self) -> Any:
            return 3

    return Odd()


def _changed(change: Callable[[Tensor], Any]) -> Callable[[], Any]:
    """The batches, each changed."""
    return lambda: [change(batch) for batch in loader()]


def _spoiled(value: float) -> Callable[[], Any]:
    def make() -> Any:
        made = rows()
        made[30, 2] = value
        return list(made.split(20))

    return make


LOADERS: dict[str, Callable[[], Any]] = {
    "a tensor": rows,
    "one example": lambda: rows(1),
    "two examples": lambda: rows(2),
    "batches of one": lambda: list(rows().split(1)),
    "no example": lambda: rows(0),
    "an empty first batch": lambda: [rows(0), rows()],
    "an empty last batch": lambda: [rows(), rows(0)],
    "batches of all sizes": lambda: list(rows().split([1, 20, 2, 17])),
    "without batch axis": lambda: [rows()[0]],
    "0-dim": lambda: [torch.tensor(1.0)],
    "too wide": _changed(lambda b: torch.cat([b, b], 1)),
    "one axis more": _changed(lambda b: b.unsqueeze(1)),
    "one axis more, last": _changed(lambda b: b.unsqueeze(-1)),
    "float64": _changed(lambda b: b.double()),
    "float16": _changed(lambda b: b.half()),
    "integers": _changed(lambda b: b.long()),
    "bools": _changed(lambda b: b > 0),
    "complex": _changed(lambda b: torch.complex(b, b)),
    "two dtypes": lambda: [loader()[0], loader()[1].double()],
    "two widths": lambda: [loader()[0], loader()[1][:, :5]],
    "two kinds": lambda: [loader()[0], {"input": loader()[1]}],
    "two structures": lambda: [(loader()[0], 1), loader()[1]],
    "NaN late": _spoiled(float("nan")),
    "infinite late": _spoiled(float("inf")),
    "huge inputs": _changed(lambda b: b * 1e38),
    "constant": _changed(torch.zeros_like),
    "sparse": _changed(lambda b: b.to_sparse()),
    "meta": _changed(lambda b: b.to("meta")),
    "with gradients": _changed(lambda b: b.requires_grad_()),
    "results of a graph": _changed(lambda b: b.requires_grad_() * 2),
    "not contiguous": _changed(lambda b: b.t().contiguous().t()),
    "numpy": _changed(lambda b: b.numpy()),
    "lists": _changed(lambda b: b.tolist()),
    "some numbers": lambda: [1, 2, 3],
    "Nones": lambda: [None, None],
    "text": lambda: ["a", "b"],
    "text itself": lambda: "odd",
    "labels only": lambda: [({"labels": rows()},)],
    "with labels": lambda: list(zip(loader(), [torch.zeros(20)] * 2, strict=True)),
    "with text labels": lambda: [(b, ["a"] * 20) for b in loader()],
    "unequal pairs": lambda: [(loader()[0], rows(3)), (loader()[1], rows(3))],
    "dicts": _changed(lambda b: {"input": b}),
    "dicts of unknown keys": _changed(lambda b: {"odd": b}),
    "dicts of numbers": lambda: [{1: b} for b in loader()],
    "dicts that differ": lambda: [{"input": loader()[0]}, {"input": loader()[1], "x": rows(20)}],
    "an empty dict": lambda: {},
    "a dict of a tensor": lambda: {"input": rows()},
    "a dict of loaders": lambda: {"train": loader()},
    "nested": lambda: [[[b]] for b in loader()],
    "three inputs": lambda: [(b, b, b) for b in loader()],
    "a generator of batches": lambda: (b for b in loader()),
    "a generator function": lambda: lambda: iter(loader()),
    "an iterator": lambda: iter(loader()),
    "a map": lambda: map(torch.clone, loader()),
    "a range": lambda: range(3),
    "a set": lambda: set(loader()),
    "a loader class": lambda: Rows,
    "a data set": Rows,
    "a data set of pairs": lambda: TensorDataset(rows(), torch.zeros(40)),
    "a loader": lambda: DataLoader(Rows(), batch_size=16),
    "a shuffling loader": lambda: DataLoader(Rows(), batch_size=16, shuffle=True),
    "a loader without batches": lambda: DataLoader(Rows(), batch_size=None),
    "a loader of one": lambda: DataLoader(Rows()),
    "a loader of a stream": lambda: DataLoader(Streamed(), batch_size=16),
    "a loader of numpy": lambda: DataLoader(np.zeros((40, 6), "f4"), batch_size=16),  # type: ignore[arg-type]
    "fails in the middle": lambda: Reading(_fails),
    "fails the second time": lambda: Reading(lambda n: loader() if n == 1 else _fails(n)),
    "fewer the second time": lambda: Reading(lambda n: loader()[: 3 - min(n, 3)]),
    "more every time": lambda: Reading(lambda n: loader() * n),
    "others every time": lambda: Reading(lambda n: [b + n for b in loader()]),
    "other sizes every time": lambda: Reading(lambda n: rows().split(20 - n)),
    "a length that lies": lambda: Reading(lambda n: loader(), 999),
    "a length that is none": lambda: Reading(lambda n: loader(), -1),
    "no iterator": _not_an_iterator,
}
