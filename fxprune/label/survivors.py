"""What survives of labels, values and parameters when channels go."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxprune.errors import PlanError
from fxprune.label.groups import Analysis
from fxprune.rules.labels import Value, narrow_constant, varying


class Conflict(PlanError):
    """The surviving channels do not fit together.

    Attributes:
        labels: ids of the channels concerned.
        where: the call at which they meet.
    """

    def __init__(self, message: str, labels: Tensor, where: str = ""):
        super().__init__(f"{where}: {message}" if where else message)
        self.message, self.labels, self.where = message, labels, where


def sizes(
    labels: Tensor, keep_mask: np.ndarray, block_of: np.ndarray | None = None
) -> dict[int, int]:
    """New length of every dimension along which a label tensor changes.

    Args:
        labels: a label tensor of channel ids.
        keep_mask: (channels + 1,) bool.
        block_of: (channels + 1,) the block of every channel, -1 for those that stay: chance may
            leave as many channels as another box holds (of two heads the first and the second
            channel), but only dimensions along which a block lies are shortened.

    Raises:
        Conflict: what is left is not a box (blocks keep unequal counts).
    """
    dims = sorted(varying(labels))
    compact = narrow_constant(labels)
    mask = keep_mask[compact.numpy()]
    candidates = []
    for dim in dims:
        counts = np.unique(mask.sum(dim))
        rest = tuple(d for d in range(mask.ndim) if d != dim)
        uniform = counts[counts > 0]
        candidates.append(
            {int(mask.any(rest).sum())} | ({int(uniform[0])} if len(uniform) == 1 else set())
        )
    boxes = [box for box in itertools.product(*candidates) if math.prod(box) == int(mask.sum())]
    if not boxes:
        raise Conflict("blocks of one channel group keep unequal counts", compact)
    if len(boxes) > 1 and block_of is not None:
        along = [_lies_along(compact.numpy(), block_of, dim) for dim in dims]
        boxes = [
            box
            for box in boxes
            if all(
                lies or size == mask.shape[dim]
                for lies, size, dim in zip(along, box, dims, strict=True)
            )
        ] or boxes
    # Where several boxes are left, the one that shortens fewest dimensions is meant.
    best = max(
        boxes,
        key=lambda box: sum(size == mask.shape[dim] for size, dim in zip(box, dims, strict=True)),
    )
    return dict(zip(dims, best, strict=True))


def _lies_along(channels: np.ndarray, block_of: np.ndarray, dim: int) -> bool:
    """Whether two channels on one line along a dimension are of one block."""
    lines = np.sort(block_of[channels] * len(block_of) + channels, axis=dim)
    steps = np.diff(lines, axis=dim)
    blocks = np.diff(lines // len(block_of), axis=dim)
    free = lines.take(range(1, lines.shape[dim]), dim) >= 0
    return bool((free & (blocks == 0) & (steps > 0)).any())


def survivors(labels: Tensor, keep_mask: np.ndarray, block_of: np.ndarray | None = None) -> Tensor:
    """What a label tensor must look like after removal, its constant dimensions cut to size 1."""
    compact = narrow_constant(labels)
    left = sizes(labels, keep_mask, block_of)
    kept = compact.numpy()[keep_mask[compact.numpy()]]
    return torch.from_numpy(kept).reshape([left.get(d, 1) for d in range(labels.dim())])


def shrink(value: Any, keep_mask: np.ndarray, block_of: np.ndarray | None = None) -> Any:
    """The value with its shape after removal, and no labels."""
    if isinstance(value, tuple):
        return tuple(shrink(v, keep_mask, block_of) for v in value)
    if not isinstance(value, Value):
        return value
    shape = list(value.shape)
    for labels in value.axes:
        for dim, size in sizes(labels, keep_mask, block_of).items():
            shape[dim] = size
    return replace(value, shape=tuple(shape), axes=())


def kept_before(
    value: Value, dim: int, stop: int, keep_mask: np.ndarray, block_of: np.ndarray | None = None
) -> int:
    """How many of the first `stop` indices along a dimension survive."""
    for labels in value.axes:
        if dim in varying(labels) and stop > 0:
            head = labels.narrow(dim, 0, min(stop, labels.shape[dim]))
            if dim in varying(head):
                return sizes(head, keep_mask, block_of)[dim]
            return head.shape[dim] if keep_mask[narrow_constant(head).numpy()].any() else 0
    return stop


def kept_axes(analysis: Analysis, keep_mask: np.ndarray) -> dict[tuple[str, int], np.ndarray]:
    """Surviving channel ids of every parameter axis, in order; (kept,) or (groups, kept)."""
    result = {}
    for key, ids in analysis.axes.items():
        mask = keep_mask[ids]
        if ids.ndim == 2:
            counts = np.unique(mask.sum(1))
            if len(counts) != 1:
                raise Conflict(
                    f"{key[0]}: convolution groups keep unequal counts {counts.tolist()}",
                    torch.from_numpy(ids),
                )
            result[key] = ids[mask].reshape(len(ids), -1)
        else:
            result[key] = ids[mask]
    return result


def shrink_parameter(
    tensor: Tensor, name: str, analysis: Analysis, keep_mask: np.ndarray
) -> Tensor:
    """Slice a parameter to its surviving channels."""
    masks = [np.ones(s, dtype=bool) for s in tensor.shape]
    grouped: np.ndarray | None = None
    for axis in range(tensor.dim()):
        ids = analysis.axes.get((name, axis))
        if ids is None:
            continue
        if ids.ndim == 1:
            masks[axis] = keep_mask[ids]
        else:
            grouped = keep_mask[ids]
    for axis, mask in enumerate(masks):
        if not mask.all():
            tensor = tensor.index_select(
                axis, torch.from_numpy(np.flatnonzero(mask)).to(tensor.device)
            )
    if grouped is not None and not grouped.all():
        rows = tensor.shape[0] // len(grouped)
        parts = [
            tensor[g * rows : (g + 1) * rows].index_select(
                1, torch.from_numpy(np.flatnonzero(m)).to(tensor.device)
            )
            for g, m in enumerate(grouped)
        ]
        tensor = torch.cat(parts)
    return tensor.contiguous()
