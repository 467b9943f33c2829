"""The tensors of a model's output by name, and how far those of two models are apart."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fxprune.capture.returned import is_state

TINY = 1e-30
"""The least squared norm that an error is relative to."""
ONLY = "output"
"""Name of an output that is one tensor."""


def name_leaves(output: Any) -> dict[str, Any]:
    """What a model returns, by the keys and indices that lead there, joined by dots; `output` where
    it is one value. State for later calls is one value.
    """
    return {path or ONLY: leaf for path, leaf in _walk(output, "")}


def _walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    children: Any = None
    if isinstance(value, Mapping):
        children = value.items()
    elif isinstance(value, (tuple, list)):
        children = zip(getattr(value, "_fields", range(len(value))), value, strict=True)
    elif is_dataclass(value) and not isinstance(value, type):
        children = ((f.name, getattr(value, f.name)) for f in fields(value))
    elif (
        not isinstance(value, Tensor)
        and not is_state(value)
        and not pytree.tree_structure(value).is_leaf()
    ):
        children = enumerate(pytree.tree_leaves(value))
    if children is None:
        yield path, value
        return
    for key, child in children:
        yield from _walk(child, f"{path}.{key}" if path else str(key))


def floating(output: Any) -> dict[str, Tensor]:
    """The floating tensors of an output that have dimensions, by name."""
    return {
        name: leaf
        for name, leaf in name_leaves(output).items()
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim()
    }


def squared_error(
    reference: Tensor, output: Tensor, real: Tensor | None = None
) -> tuple[float, float]:
    """Squared error and squared norm of two tensors (N, ...), summed.

    The norm is about the mean of each example's values, where there are several: what all of them
    share says nothing. Values that are equal and infinite (masks) count neither way.

    Args:
        reference, output: of the two models.
        real: bool that expands to them, where they count; everywhere by default.
    """
    a = reference.detach().double()
    b = a if output is reference else output.detach().double()
    if not a.isfinite().all():
        a, b = a.where(a != b, 0), b.where(a != b, 0)
    several = a.dim() > 1 and a[0].numel() > 1 if len(a) else False
    if real is not None and several and len(real) == len(a):
        weight = real.expand(a.shape).double()
        axes = tuple(range(1, a.dim()))
        mean = (a * weight).sum(axes, keepdim=True) / weight.sum(axes, keepdim=True).clamp(min=1)
        apart, spread = (a - b) * weight, (a - mean) * weight
        return float(apart.square().sum()), float(torch.square(spread).sum())
    center = a - a.mean(tuple(range(1, a.dim())), keepdim=True) if several else a
    return float((a - b).square().sum()), float(torch.square(center).sum())


def squared_errors(
    reference: Any,
    output: Any,
    real: Callable[[str, Tensor], Tensor | None] = lambda name, value: None,
) -> dict[str, tuple[float, float]]:
    """Squared error and squared norm of every floating output of two models on one batch, where
    they are no padding.
    """
    found = floating(output)
    return {
        name: squared_error(tensor, found[name], real(name, tensor))
        for name, tensor in floating(reference).items()
    }


class OutputErrors:
    """Relative squared errors of every floating output, added up over batches."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def count(self, found: Mapping[str, tuple[float, float]]) -> None:
        """Count one batch's squared errors."""
        for name, (error, norm) in found.items():
            before = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = before[0] + error, before[1] + norm

    def by_output(self) -> dict[str, float]:
        """Each output's error."""
        return {name: error / max(norm, TINY) for name, (error, norm) in self._sums.items()}

    def mean(self) -> float:
        """Of all outputs; 0 where there are none."""
        errors = self.by_output().values()
        return sum(errors) / max(len(errors), 1)
