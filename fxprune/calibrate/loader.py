"""A calibration loader that can be read as often as the method needs."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxprune.capture.batch import Batch, is_mask, make_batch, require_alike, to_batch
from fxprune.errors import CalibrationError


class _Joined:
    """Several calls put together as one, in tensors made once.

    Many small ones that wait would fragment the memory.

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
        """Take a call that differs from the first in its number of examples only.

        Returns:
            whether it fits; nothing is taken where it does not.
        """
        first, other = (pytree.tree_leaves((b.args, b.kwargs)) for b in (self._first, batch))
        pairs = list(zip(first, other, strict=True))
        grows = [_by_example(pair, (self._first.size, batch.size)) for pair in pairs]
        alike = all(
            a.shape[1:] == b.shape[1:] and a.device == b.device if by_example else _equal(a, b)
            for by_example, (a, b) in zip(grows, pairs, strict=True)
        )
        stop = self.size + batch.size
        if not alike or stop > self._most:
            return False
        for leaf, by_example, value in zip(self._leaves, grows, other, strict=True):
            if by_example:
                leaf[self.size : stop] = value
        self.size = stop
        return True

    def batch(self) -> Batch:
        """What was taken: rows of examples one after the other, the rest as in the first call."""
        leaves = [
            leaf[: self.size] if grows else leaf
            for leaf, grows in zip(self._leaves, self._grows, strict=True)
        ]
        return make_batch(*pytree.tree_unflatten(leaves, self._form))


def _by_example(values: Sequence[Any], sizes: Sequence[int]) -> bool:
    """Whether each value is a tensor with a row for every example of its call."""
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


class Calibration:
    """A calibration loader that can be read as often as the method needs.

    Args:
        model: whose forward the batches are for.
        loader: any re-iterable of batches, or one tensor. One-shot iterators are refused: a second
            pass would see nothing.
        chunk: most examples per batch handed out; longer ones are cut. May be changed between two
            readings.

    Attributes:
        size: examples in all.
        example: the first two examples, to capture the model with.

    Raises:
        CalibrationError: the loader cannot be read, or its batches are empty, of different kinds
            or not finite.
    """

    def __init__(self, model: nn.Module, loader: Any, chunk: int = 128):
        self._model, self._loader, self.chunk = model, _readable(loader), chunk
        self.size = self._largest = 0
        first: Batch | None = None
        for item in self._loader:
            batch = to_batch(model, item)
            if not batch.size:
                continue
            first = first or batch
            _check_like(first, batch, self.size)
            self.size += batch.size
            self._largest = max(self._largest, batch.size)
        if first is None or self.size == 0:
            raise CalibrationError(
                "The calibration loader yields no example. A few hundred unlabeled inputs are "
                "needed."
            )
        self.example = first.part(0, min(first.size, 2))

    def batches(self, chosen: np.ndarray | None = None) -> Iterator[Batch]:
        """Stream the examples in order, in batches of at most `chunk` and no larger than the
        loader's.

        Args:
            chosen: (size,) bool, which examples; all by default. What is left of neighboring
                batches is put together.
        """
        most = min(self.chunk, self._largest)
        waiting: _Joined | None = None
        for part in self._pieces(chosen):
            if waiting is not None and not waiting.add(part):
                yield waiting.batch()
                waiting = None
            if waiting is None and part.size == most:
                yield part
            elif waiting is None:
                waiting = _Joined(part, most)
                waiting.add(part)
        if waiting is not None:
            yield waiting.batch()

    def _pieces(self, chosen: np.ndarray | None) -> Iterator[Batch]:
        """What is chosen of every batch, cut into at most `chunk` examples."""
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


def _readable(loader: Any) -> Iterable[Any]:
    """A loader that starts anew each time it is iterated; one tensor or dict is its only batch."""
    if isinstance(loader, (Tensor, dict)):
        return [loader]
    if isinstance(loader, Iterator):
        raise CalibrationError(
            f"The calibration loader is a one-shot {type(loader).__name__}: it can be read once, "
            "and calibration reads it several times. Pass list(loader), a DataLoader, or an "
            "object whose __iter__ starts anew."
        )
    if not isinstance(loader, Iterable):
        raise CalibrationError(
            f"The calibration loader is a {type(loader).__name__}, which cannot be iterated."
        )
    return loader


def _check_like(first: Batch, batch: Batch, at: int) -> None:
    """Check that a batch has the first one's dtypes and numbers of dimensions, and is finite.

    Args:
        at: number of its first example, for messages.
    """
    require_alike(first, batch, at)
    for a, b in zip(first.tensors(), batch.tensors(), strict=True):
        if a.dtype != b.dtype or a.dim() != b.dim():
            raise CalibrationError(
                f"The calibration batch from example {at} has a tensor {tuple(b.shape)} "
                f"{b.dtype}, the first one {tuple(a.shape)} {a.dtype}."
            )
        if b.is_floating_point() and not torch.isfinite(b).all() and not is_mask(b):
            raise CalibrationError(
                f"The calibration batch from example {at} holds NaN or infinite values. Clean the "
                "data first."
            )
