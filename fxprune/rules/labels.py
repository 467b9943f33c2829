"""Channel labels: what a tensor's elements belong to.

A *label tensor* has the shape of the tensor it describes and holds one int64 label per element;
elements with equal labels live or die together. Along axes where the label does not change it is a
stride-0 view, so labels cost memory per channel, not per pixel. A tensor carries one label tensor
per independent channel axis (a weight has an input and an output axis); label 0 marks elements
that nothing may remove.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

FIXED = 0


@dataclass(frozen=True)
class Value:
    """What label propagation knows of one tensor of the graph.

    Attributes:
        shape: concrete shape under the example input.
        dtype: element type.
        axes: label tensors, each of the tensor's shape.
        const: the tensor itself where it depends on no input (index tables, masks).
        parameter: qualified name, where the tensor is a parameter or buffer of the model.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    axes: tuple[Tensor, ...] = ()
    const: Tensor | None = None
    parameter: str | None = None

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)


def squash(labels: Tensor) -> Tensor:
    """The same label tensor as a view with stride 0 along every dimension it is constant on."""
    shape = labels.shape
    for dim in range(labels.dim()):
        if labels.shape[dim] < 2:
            continue
        first = labels.narrow(dim, 0, 1)
        if labels.stride(dim) == 0:
            labels = first
        elif torch.equal(first, labels.narrow(dim, 1, 1)) and bool((labels == first).all()):
            labels = first
    return labels.expand(shape)


def varying(labels: Tensor) -> frozenset[int]:
    """Dimensions along which a squashed label tensor changes."""
    return frozenset(
        d for d in range(labels.dim()) if labels.shape[d] > 1 and labels.stride(d) != 0
    )


def narrow_constant(labels: Tensor) -> Tensor:
    """The label tensor with its constant dimensions cut to size 1."""
    for dim in range(labels.dim()):
        if labels.stride(dim) == 0 and labels.shape[dim] > 1:
            labels = labels.narrow(dim, 0, 1)
    return labels


def vector(labels: Tensor, dim: int) -> Tensor:
    """The labels along one dimension, (size,), of a label tensor that changes along no other."""
    if not labels.numel():  # no element has a label
        return torch.full((labels.shape[dim],), FIXED)
    return labels.movedim(dim, 0).reshape(labels.shape[dim], -1)[:, 0]


def distinct(labels: Tensor) -> np.ndarray:
    """The labels that occur, ascending."""
    flat = narrow_constant(labels).numpy().reshape(-1)
    return present(flat) if len(flat) else flat


def present(numbers: np.ndarray) -> np.ndarray:
    """Which of at least one number occur, ascending: marked in a table where they lie close
    together, which is faster than sorting.
    """
    low = int(numbers.min())
    span = int(numbers.max()) - low + 1
    if span > max(4 * len(numbers), 1024):
        return np.unique(numbers)
    table = np.zeros(span, dtype=bool)
    table[numbers - low] = True
    return np.flatnonzero(table) + low


def reshaped(labels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`labels.reshape(shape)`, of which only what the label changes along is copied.

    Raises:
        RuntimeError: the shapes do not fit.
    """
    if math.prod(shape) != labels.numel() or not labels.numel():
        return labels.reshape(shape)
    thin = list(shape)
    for before, after in _factors(labels.shape, shape):
        if all(labels.shape[d] == 1 or labels.stride(d) == 0 for d in before):
            thin[after.start : after.stop] = [1] * len(after)
            for dim in before:
                labels = labels.narrow(dim, 0, 1)
    return labels.reshape(thin).expand(shape)


def _factors(source: tuple[int, ...], target: tuple[int, ...]) -> Iterator[tuple[range, range]]:
    """The shortest runs of dimensions of two shapes that hold the same number of elements; the
    shapes hold equally many, not none.
    """
    i = j = 0
    while i < len(source) or j < len(target):
        k, m = min(i + 1, len(source)), min(j + 1, len(target))
        while (left := math.prod(source[i:k])) != (right := math.prod(target[j:m])):
            k, m = (k + 1, m) if left < right else (k, m + 1)
        yield range(i, k), range(j, m)
        i, j = k, m
