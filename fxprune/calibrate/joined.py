"""Several calls put together as one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fxprune.capture.batch import Batch, make_batch

Sizes = tuple[tuple[int, ...], ...]
"""The shapes of a call's tensors, without the number of examples."""


class Joined:
    """Several calls put together as one, in tensors made once.

    Many small ones that wait would fragment the memory.

    Args:
        first: the first of them.
        most: examples there is room for.
    """

    def __init__(self, first: Batch, most: int):
        self._first, self._most, self.size = first, most, 0
        leaves, self._form = pytree.tree_flatten((first.args, first.kwargs))
        self._grows = [has_rows((t,), (first.size,)) for t in leaves]
        self._leaves = [
            t.new_empty(most, *t.shape[1:]) if grows else t
            for t, grows in zip(leaves, self._grows, strict=True)
        ]

    @property
    def room(self) -> int:
        """Examples that there is still room for."""
        return self._most - self.size

    def add(self, batch: Batch) -> bool:
        """Take a call that differs from the first in its number of examples only.

        Returns:
            whether it fits; nothing is taken where it does not.
        """
        first, other = (pytree.tree_leaves((b.args, b.kwargs)) for b in (self._first, batch))
        pairs = list(zip(first, other, strict=True))
        grows = [has_rows(pair, (self._first.size, batch.size)) for pair in pairs]
        alike = all(
            a.shape[1:] == b.shape[1:] and a.device == b.device if by_example else _equal(a, b)
            for by_example, (a, b) in zip(grows, pairs, strict=True)
        )
        stop = self.size + batch.size
        if not alike or batch.size > self.room:
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


def has_rows(values: Sequence[Any], sizes: Sequence[int]) -> bool:
    """Whether each value is a tensor with a row for every example of its call."""
    return all(
        isinstance(v, Tensor) and v.dim() > 0 and v.shape[0] == size
        for v, size in zip(values, sizes, strict=True)
    )


def sizes_of(batch: Batch) -> Sizes:
    """The sizes of a call's tensors, without the number of examples."""
    return tuple(
        tuple(t.shape[1:] if has_rows((t,), (batch.size,)) else t.shape) for t in batch.tensors()
    )


def _equal(x: Any, y: Any) -> bool:
    return (
        torch.equal(x, y)
        if isinstance(x, Tensor) and isinstance(y, Tensor)
        else bool(x is y or x == y)
    )
