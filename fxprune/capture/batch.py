"""Calibration batches: what a loader may yield, and how it becomes the model's arguments."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxprune.errors import CalibrationError

LABEL_KEYS = frozenset({"label", "labels", "target", "targets"})


@dataclass(frozen=True)
class Batch:
    """One call of the model: positional and keyword arguments, and the number of examples."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    size: int

    def tensors(self) -> list[Tensor]:
        """Every tensor among the arguments, in pytree order."""
        return [t for t in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(t, Tensor)]

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same call with every tensor changed."""
        args, kwargs = pytree.tree_map_only(Tensor, change, (self.args, self.kwargs))
        return make_batch(args, kwargs)

    def channels_last(self) -> "Batch":
        """The same call with images and volumes laid out as CPU and GPU convolutions read them
        fastest.
        """
        layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
        return self.map(lambda t: t.to(memory_format=layouts[t.dim()]) if t.dim() in layouts else t)

    def take(self, index: Tensor) -> "Batch":
        """The examples with these numbers."""
        return self.map(
            lambda t: t[index.to(t.device)] if t.dim() and t.shape[0] == self.size else t
        )

    def part(self, start: int, stop: int) -> "Batch":
        """Examples `start` to `stop` of the batch."""
        return self.map(lambda t: t[start:stop] if t.dim() and t.shape[0] == self.size else t)


class Gathered:
    """Several calls put together as one, in tensors made once: many small ones that wait would
    fragment the memory.

    Args:
        first: the first of them.
        most: examples there is room for.
    """

    def __init__(self, first: Batch, most: int):
        self._first, self._most, self.size = first, most, 0
        leaves, self._form = pytree.tree_flatten((first.args, first.kwargs))
        self._grows = [_by_example((t,), (first.size,)) for t in leaves]
        self._leaves = [
            t.new_empty(most, *t.shape[1:]) if grows else t
            for t, grows in zip(leaves, self._grows, strict=True)
        ]

    def add(self, batch: Batch) -> bool:
        """Take a call that differs from the first in its number of examples only; False where it
        does not fit.
        """
        pairs = list(
            zip(
                *(pytree.tree_leaves((b.args, b.kwargs)) for b in (self._first, batch)), strict=True
            )
        )
        rows = [_by_example(pair, (self._first.size, batch.size)) for pair in pairs]
        same = all(
            a.shape[1:] == b.shape[1:] and a.device == b.device if row else _equal(a, b)
            for row, (a, b) in zip(rows, pairs, strict=True)
        )
        if not same or self.size + batch.size > self._most:
            return False
        for held, row, (_, value) in zip(self._leaves, rows, pairs, strict=True):
            if row:
                held[self.size : self.size + batch.size] = value
        self.size += batch.size
        return True

    def batch(self) -> Batch:
        """What was taken: tensors with a row for each example one after the other, the rest as in
        the first call.
        """
        leaves = [
            held[: self.size] if grows else held
            for held, grows in zip(self._leaves, self._grows, strict=True)
        ]
        return make_batch(*pytree.tree_unflatten(leaves, self._form))


def _by_example(values: Sequence[Any], sizes: Sequence[int]) -> bool:
    return all(
        isinstance(v, Tensor) and v.dim() > 0 and v.shape[0] == size
        for v, size in zip(values, sizes, strict=True)
    )


def _equal(x: Any, y: Any) -> bool:
    return (
        torch.equal(x, y)
        if isinstance(x, Tensor) and isinstance(y, Tensor)
        else bool(x is y or x == y)
    )


def make_batch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Batch:
    """Wrap arguments; the number of examples is the first tensor's leading size."""
    leaves = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    if not leaves:
        raise CalibrationError(
            "A calibration batch holds no tensor. Yield tensors, (x, y) tuples or dicts of tensors."
        )
    return Batch(args, kwargs, leaves[0].shape[0] if leaves[0].dim() else 1)


def _signature(model: nn.Module) -> tuple[int, set[str], bool]:
    """Required positional arguments of forward, its names, and whether it takes any keyword."""
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return 1, set(), True
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters)
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return max(required, 1), {p.name for p in parameters}, anything


def to_batch(model: nn.Module, item: Any) -> Batch:
    """Turn what a loader yields into the model's arguments; labels are dropped.

    A tensor is the only argument. Of a tuple or list as many leading items are taken as forward
    requires. A dict is keyword arguments; keys such as `labels` and keys that forward does not
    know are left out.
    """
    required, names, anything = _signature(model)
    if isinstance(item, Batch):
        return item
    if isinstance(item, Tensor):
        return make_batch((item,), {})
    if isinstance(item, (tuple, list)):
        if len(item) < required:
            raise CalibrationError(
                f"A calibration batch is a {type(item).__name__} of {len(item)} items, but the "
                "model's forward requires "
                f"{required} arguments."
            )
        return make_batch(tuple(item[:required]), {})
    if hasattr(item, "keys"):
        kwargs = {
            k: item[k] for k in item.keys() if (k in names or anything) and k not in LABEL_KEYS
        }
        if not kwargs:
            raise CalibrationError(
                f"A calibration batch is a dict with keys {sorted(map(str, item.keys()))}; the "
                f"model's forward takes {sorted(names)}."
            )
        return make_batch((), kwargs)
    raise CalibrationError(
        f"A calibration batch is a {type(item).__name__}. Yield a tensor, a tuple (x, y) whose "
        "labels are ignored, or a dict of "
        "keyword arguments."
    )


class Calibration:
    """A calibration loader that can be read as often as the method needs, from example `start` to
    `stop`.

    Args:
        model: whose forward the batches are for.
        loader: any re-iterable of batches, or one tensor. One-shot iterators are refused: a second
            pass would see nothing.
        chunk: most examples per batch handed out; longer ones are cut. May be changed between two
            readings.
    """

    def __init__(self, model: nn.Module, loader: Any, chunk: int = 128):
        if isinstance(loader, Tensor):
            loader = [loader]
        if isinstance(loader, dict):
            loader = [loader]
        if isinstance(loader, Iterator):
            raise CalibrationError(
                f"The calibration loader is a one-shot {type(loader).__name__}: it can be read "
                "once, and calibration reads it "
                "several times. Pass list(loader), a DataLoader, or an object whose __iter__ "
                "starts anew."
            )
        if not isinstance(loader, Iterable):
            raise CalibrationError(
                f"The calibration loader is a {type(loader).__name__}, which cannot be iterated."
            )
        self._model, self._loader, self.chunk = model, loader, chunk
        self.size = self._largest = 0
        first: Batch | None = None
        for item in loader:
            batch = to_batch(model, item)
            first = first or batch
            _check_like(first, batch, self.size)
            self.size += batch.size
            self._largest = max(self._largest, batch.size)
        if first is None or self.size == 0:
            raise CalibrationError(
                "The calibration loader yields no example. A few hundred unlabelled inputs are "
                "needed."
            )
        self.example = first.part(0, min(first.size, 2))

    def batches(self, chosen: np.ndarray | None = None) -> Iterator[Batch]:
        """Stream the examples in order, in batches of at most `chunk` and no larger than the
        loader's.

        Args:
            chosen: (size,) bool, which examples; all by default. What is left of neighbouring
                batches is put together.
        """
        most = min(self.chunk, self._largest)
        waiting: Gathered | None = None
        for part in self._pieces(chosen):
            if waiting is not None and not waiting.add(part):
                yield waiting.batch()
                waiting = None
            if waiting is None and part.size == most:
                yield part
            elif waiting is None:
                waiting = Gathered(part, most)
                waiting.add(part)
        if waiting is not None:
            yield waiting.batch()

    def _pieces(self, chosen: np.ndarray | None) -> Iterator[Batch]:
        seen = 0
        for item in self._loader:
            batch = to_batch(self._model, item)
            if chosen is not None:
                index = torch.from_numpy(np.flatnonzero(chosen[seen : seen + batch.size]))
                seen += batch.size
                if not len(index):
                    continue
                if len(index) < batch.size:
                    batch = batch.take(index)
            else:
                seen += batch.size
            for at in range(0, batch.size, self.chunk):
                yield batch.part(at, min(at + self.chunk, batch.size))
        if seen < self.size:
            raise CalibrationError(
                f"The calibration loader gave {self.size} examples at first and {seen} later. "
                "Pass a loader that starts anew each time."
            )


def _check_like(first: Batch, batch: Batch, at: int) -> None:
    """Every batch has the first one's dtypes and number of dimensions."""
    for a, b in zip(first.tensors(), batch.tensors(), strict=True):
        if a.dtype != b.dtype or a.dim() != b.dim():
            raise CalibrationError(
                f"The calibration batch from example {at} has a tensor {tuple(b.shape)} "
                f"{b.dtype}, the first one {tuple(a.shape)} {a.dtype}."
            )
        if b.is_floating_point() and not torch.isfinite(b).all():
            raise CalibrationError(
                f"The calibration batch from example {at} holds NaN or infinite values. Clean the "
                "data first."
            )


def example_batch(model: nn.Module, example: Any) -> Batch:
    """A batch of two examples, as tracing with a free batch size needs."""
    batch = to_batch(model, example)
    if batch.size == 1:
        batch = batch.map(lambda t: torch.cat([t, t]) if t.dim() and t.shape[0] == 1 else t)
    return batch.part(0, 2)
