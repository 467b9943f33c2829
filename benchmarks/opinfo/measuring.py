"""Where an operator itself, without any labels, takes its channels."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from benchmarks.opinfo.variant import Reading, Variant, run

TRIED = 1e-9
"""What differs by more than this share of the largest value has changed."""


def measured(
    call: Callable[..., Any],
    leaves: Sequence[Any],
    tree: pytree.TreeSpec,
    made: tuple[tuple[int, int], ...],
    kind: str,
) -> Variant | None:
    """A variant with what the operator itself says about where its channels go; None where it
    returns nothing that can be read.
    """
    leaves = _without_ties(call, leaves, tree, made)

    def result(changed: int | None) -> list[Tensor]:
        # In-place operators get tensors of their own.
        given = [t.clone() if isinstance(t, Tensor) else t for t in leaves]
        if changed is not None:
            for place, axis in made:
                given[place] = _swapped(given[place], axis, changed)
        return run(call, given, tree)

    try:
        base, again = result(None), result(None)
        alike = all(torch.equal(a.isnan(), b.isnan()) for a, b in zip(base, again, strict=True))
        same = alike and all(differing(a, b).sum() == 0 for a, b in zip(base, again, strict=True))
        width = min(leaves[place].shape[axis] for place, axis in made)
        runs = [result(channel) for channel in range(width)]
        readings = tuple(
            _reading(place, tensor, [r[place] for r in runs], made[0][1])
            for place, tensor in enumerate(base)
            if tensor.numel() and tensor.layout is torch.strided
        )
    except Exception:  # what torch raises for samples that do not suit it has many types
        return None
    if not readings:
        return None
    return Variant(call, tuple(leaves), tree, made, readings, kind, not same)


def _without_ties(
    call: Callable[..., Any],
    leaves: Sequence[Any],
    tree: pytree.TreeSpec,
    made: tuple[tuple[int, int], ...],
) -> Sequence[Any]:
    """A sample whose values do not stand where rounding decides, for operators that compare."""
    given = [t.clone() if isinstance(t, Tensor) else t for t in leaves]
    try:
        if all(t.is_floating_point() or t.is_complex() for t in run(call, given, tree)):
            return leaves
    except Exception:  # as below
        return leaves
    moved = list(leaves)
    for place, _ in made:
        count = torch.arange(1, leaves[place].numel() + 1, dtype=leaves[place].dtype)
        moved[place] = leaves[place] * (1 + 1e-3 * torch.sin(count).view(leaves[place].shape))
    return moved


def _swapped(tensor: Tensor, axis: int, channel: int) -> Tensor:
    """A copy in which a channel holds what its neighbor holds: values that the operator takes."""
    changed = tensor.clone()
    neighbor = (channel + 1) % tensor.shape[axis]
    changed.select(axis, channel).copy_(tensor.select(axis, neighbor) * 0.75)
    return changed


def differing(left: Tensor, right: Tensor) -> Tensor:
    """Where two tensors of one shape differ."""
    if not left.is_floating_point() and not left.is_complex():
        return left != right
    scale = left[left.isfinite()].abs().amax() if left.isfinite().any() else 1.0
    return ~torch.isclose(left, right, rtol=0, atol=float(scale) * TRIED, equal_nan=True)


def _reading(place: int, base: Tensor, runs: list[Tensor], axis: int) -> Reading:
    """Where a result changes with each channel; the axis along which each changes least."""
    shape, finite = tuple(base.shape), not base.is_floating_point() or bool(base.isfinite().all())
    same = [r for r in runs if r.shape == base.shape]
    if not shape or len(same) < len(runs):
        return Reading(place, shape, 0, False, finite)
    touched = [differing(base, r) for r in runs]
    spread: list[tuple[float, int]] = []
    for d in range(len(shape)):
        rest = tuple(i for i in range(len(shape)) if i != d)
        share = [float((t.any(rest) if rest else t).double().mean()) for t in touched]
        spread.append((max(share), -d))
    least, at = min(spread)
    if least >= 1:
        return Reading(place, shape, axis if axis < len(shape) else len(shape) - 1, False, finite)
    return Reading(place, shape, -at, any(bool(t.any()) for t in touched), finite)
