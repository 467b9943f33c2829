"""Which rows of a layer's input and output a fit looks at: those of sampled output positions.

A *position* is an index into a layer's output without its channels. The original's outputs there
are the targets; what the layer reads for them are the features, one *tap* for each place in a
convolution's kernel.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from fxprune.graph.convolution import convolution_of
from fxprune.graph.operators import operator_name
from fxprune.rules.labels import Value, varying, vector


def kept_indices(value: Any, keep_mask: np.ndarray) -> dict[int, Tensor] | None:
    """Indices of a labeled tensor that survive, by dimension.

    Args:
        value: labels of one tensor.
        keep_mask: (channels + 1,) bool.

    Returns:
        only dimensions that lose some; None where the survivors do not form a box.
    """
    if not isinstance(value, Value):
        return None
    kept = {}
    for labels in value.axes:
        dims = varying(labels)
        if len(dims) != 1:
            return None
        (dim,) = dims
        survives = keep_mask[vector(labels, dim).numpy()]
        if not survives.all():
            kept[dim] = torch.from_numpy(np.flatnonzero(survives))
    return kept


def keep_survivors(
    at: Tensor, target: Tensor, kept: dict[int, Tensor], channel: int
) -> tuple[Tensor, Tensor, Tensor | slice]:
    """Positions and outputs of the original as the reduced model numbers them.

    Args:
        at: (dimensions, picks) positions.
        target: (picks, channels) outputs there.
        kept: indices that survive, by dimension of the output.
        channel: the dimension of the channels.

    Returns:
        positions and targets of the picks that are left, and which picks those are.
    """
    if channel in kept:
        target = target.index_select(1, kept[channel].to(target.device))
    rows_of = {dim - (dim > channel): index for dim, index in kept.items() if dim != channel}
    if not rows_of:
        return at, target, slice(None)
    left = torch.ones(at.shape[1], dtype=torch.bool)
    at = at.clone()
    for row, index in rows_of.items():
        number = torch.searchsorted(index, at[row]).clamp(max=len(index) - 1)
        left &= index[number] == at[row]
        at[row] = number
    return at[:, left], target[left.to(target.device)], left


def split_groups(rows: Tensor, groups: int) -> Tensor:
    """(rows, ..., columns) as (groups, rows, ... x columns / groups)."""
    return rows.reshape(*rows.shape[:-1], groups, -1).movedim(-2, 0).flatten(2)


def read_features(node: Node, x: Tensor, kernel: tuple[int, ...], at: Tensor) -> Tensor:
    """What a layer reads at some output positions, (rows, taps, channels); zeros where a
    convolution reads its padding.

    Args:
        node: the call.
        x: its input; a convolution's may be without a batch dimension.
        kernel: sizes of the weight's kernel axes; none for a linear layer.
        at: (dimensions, rows) positions.
    """
    if operator_name(node.target) == "aten.linear":
        features: Tensor = x[tuple(at)]
        return features[:, None]
    if x.dim() == len(kernel) + 1:
        x, at = x[None], F.pad(at, (0, 0, 1, 0))
    convolution = convolution_of(node)
    assert convolution is not None  # layers are linear maps or convolutions
    before = convolution.padding_before(kernel)
    # (rows, taps so far): which pixel each tap reads, and whether that lies outside the image.
    pixels, outside = at[0][:, None], torch.zeros(at.shape[1], 1, dtype=torch.bool)
    for dim, taps in enumerate(kernel):
        size = x.shape[2 + dim]
        reads = (
            at[1 + dim][:, None] * convolution.stride[dim]
            - before[dim]
            + torch.arange(taps) * convolution.dilation[dim]
        )
        pixels = (pixels[:, :, None] * size + reads[:, None]).flatten(1)
        outside = (outside[:, :, None] | ((reads < 0) | (reads >= size))[:, None]).flatten(1)
    padded = outside.flatten().nonzero()[:, 0].to(x.device)
    # Images are laid out with their channels last: each read is one run of memory.
    runs = x.movedim(1, -1).reshape(-1, x.shape[1])
    chosen = pixels.flatten().to(x.device).index_fill_(0, padded, 0)
    return runs.index_select(0, chosen).index_fill_(0, padded, 0).view(*pixels.shape, -1)
