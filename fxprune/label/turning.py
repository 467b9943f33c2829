"""A change of basis within each block of a channel group, on any tensor that carries its channels.

Within a block the elements that differ in their channel alone form a *fiber*; a matrix per block
acts on all of its fibers.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fxprune.errors import PlanError
from fxprune.label.groups import Analysis, ChannelGroup
from fxprune.rules.labels import Value, narrow_constant


def fibers(ids: np.ndarray, blocks: np.ndarray) -> list[np.ndarray]:
    """Where the channels of each block stand.

    Args:
        ids: channel ids of any shape.
        blocks: (blocks, size) channel ids.

    Returns:
        per block (fibers, size) places in the flattened `ids`, in order; no fibers where none of
        its channels is there.

    Raises:
        PlanError: some channels of a block stand there more often than others.
    """
    flat = ids.reshape(-1)
    order = np.argsort(flat, kind="stable")
    channels = blocks.reshape(-1)
    first = np.searchsorted(flat[order], channels, "left").reshape(blocks.shape)
    counts = np.searchsorted(flat[order], channels, "right").reshape(blocks.shape) - first
    found = []
    for start, count in zip(first, counts, strict=True):
        if (count != count[0]).any():
            raise PlanError("takes a part of the channels of a block")
        found.append(order[start[None, :] + np.arange(count[0])[:, None]])
    return found


def turn(
    tensor: Tensor, ids: np.ndarray, blocks: np.ndarray, matrices: Sequence[Tensor | np.ndarray]
) -> Tensor:
    """Multiply every fiber of a tensor by its block's matrix.

    Args:
        tensor: of any shape.
        ids: channel ids, of as many dimensions; of size 1 where they do not change.
        blocks: (blocks, size) channel ids.
        matrices: per block (size, size); row j gives the new channel j.

    Returns:
        a new tensor of the same shape, dtype and device; products are taken in the matrices' dtype.

    Raises:
        PlanError: as `fibers`.
    """
    dims = [d for d in range(ids.ndim) if ids.shape[d] > 1]
    front = list(range(len(dims)))
    moved = tensor.movedim(dims, front)
    # On the CPU: not every device has float64.
    flat = moved.reshape(ids.size, -1).to("cpu", copy=True)
    for places, matrix in zip(fibers(ids, blocks), matrices, strict=True):
        if places.size:
            own, at = torch.as_tensor(matrix), torch.from_numpy(places.reshape(-1))
            picked = flat[at].view(*places.shape, flat.shape[1]).to(own.dtype)
            flat[at] = (own @ picked).reshape(len(at), -1).to(flat.dtype)
    return flat.view(moved.shape).movedim(front, dims).to(tensor.device)


def turn_value(
    tensor: Tensor, value: Value, blocks: np.ndarray, matrices: Sequence[Tensor | np.ndarray]
) -> Tensor:
    """Likewise along every label tensor of the value that a tensor stands for."""
    for labels in value.axes:
        ids = narrow_constant(labels).numpy()
        if np.isin(ids, blocks).any():
            tensor = turn(tensor, ids, blocks, matrices)
    return tensor


def axis_ids(ids: np.ndarray, shape: Sequence[int], axis: int) -> np.ndarray:
    """The channel ids of a weight's axis as ids of the weight's rank, for `turn`.

    Args:
        ids: (size,), or (groups, size) where each block of rows of axis 0 has its own.
        shape: of the weight.
        axis: of the weight.
    """
    view = [1] * len(shape)
    view[axis] = shape[axis]
    if ids.ndim == 1:
        return ids.reshape(view)
    view[0] = shape[0]
    return ids.repeat(shape[0] // len(ids), axis=0).reshape(view)


@dataclass(frozen=True, eq=False)
class Basis:
    """New coordinates of the channels in each block of a group.

    Attributes:
        left: (blocks, size, size) float64; row j gives the new channel j of what lies on the first
            side of products, and of all that no product of two activations sums over.
        right: of what lies on the second side, the inverse transposed; the same where the matrices
            are orthonormal.
    """

    left: np.ndarray
    right: np.ndarray

    @property
    def digest(self) -> str:
        """Equal for equal coordinates."""
        parts = (self.left.tobytes(), self.right.tobytes())
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


@dataclass(frozen=True)
class Turning:
    """Bases of some groups, and the places where these have their channels.

    Attributes:
        analysis: of the captured graph.
        bases: by the name of the group.
    """

    analysis: Analysis
    bases: Mapping[str, Basis]

    @cached_property
    def axes(self) -> dict[tuple[str, int], tuple[ChannelGroup, ...]]:
        """By weight axis the groups with a basis that have channels there; others are left out."""
        groups = [g for g in self.analysis.groups if g.name in self.bases]
        held = {
            key: tuple(g for g in groups if np.isin(ids, g.blocks).any())
            for key, ids in self.analysis.axes.items()
        }
        return {key: own for key, own in held.items() if own}

    def turn(self, tensor: Tensor, key: tuple[str, int], dim: int, inverse: bool = False) -> Tensor:
        """A tensor with what a weight axis holds in new coordinates.

        Args:
            tensor: the weight, or one that has the axis' channels along a dimension.
            key: the weight axis.
            dim: of the tensor.
            inverse: of derivatives by the channels, which turn by the inverse transposed.
        """
        ids, side = self.analysis.axes[key], self.analysis.sides.get(key)
        for group in self.axes.get(key, ()):
            basis = self.bases[group.name]
            both = (basis.right, basis.left) if inverse else (basis.left, basis.right)
            for number, matrices in enumerate(both):
                own = ids if side is None else np.where(side == number, ids, 0)
                if np.isin(own, group.blocks).any() and (side is not None or number == 0):
                    placed = axis_ids(own, tensor.shape, dim)
                    tensor = turn(tensor, placed, group.blocks, list(matrices))
        return tensor
