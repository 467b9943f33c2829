"""How a consumer reads its channels: which columns of its input belong to which channel."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fxprune.linalg.refit import gram


@dataclass(frozen=True)
class Stratum:
    """Channels of one convolution group that occupy equally many columns (after a flatten: one per
    position).

    Attributes:
        group: convolution group.
        keys: (n,) channel ids; columns nothing may remove have ids of their own below zero.
        columns: (n, p) columns of the input, within the whole input.
    """

    group: int
    keys: np.ndarray
    columns: np.ndarray


def strata(ids: np.ndarray) -> list[Stratum]:
    """Sort the columns that a consumer reads by channel.

    Args:
        ids: (size,) channel id of every column, or (groups, size).
    """
    table = ids.reshape(-1, ids.shape[-1])
    result = []
    for group, row in enumerate(table):
        places: dict[int, list[int]] = defaultdict(list)
        fixed = 0
        for at, key in enumerate(row.tolist()):
            if key == 0:
                fixed += 1
                key = -fixed
            places[key].append(group * len(row) + at)
        sizes: dict[int, list[int]] = defaultdict(list)
        for key, held in places.items():
            sizes[len(held)].append(key)
        for members in sizes.values():
            result.append(Stratum(group, np.array(members), np.array([places[k] for k in members])))
    return result


def rows(flat: Tensor, stratum: Stratum) -> Tensor:
    """Observations of a stratum's channels, (rows, n), flattened positions included, from
    (examples x positions, columns).
    """
    n, p = stratum.columns.shape
    if n * p == flat.shape[1] and p == 1 and np.array_equal(stratum.columns[:, 0], np.arange(n)):
        return flat
    picked = flat[:, torch.from_numpy(stratum.columns.reshape(-1)).to(flat.device)]
    return picked.view(-1, n, p).transpose(1, 2).reshape(-1, n)


def second_moment(x: Tensor, block: int = 1 << 14) -> np.ndarray:
    """x^T x, (n, n) float64: products in the rows' precision, summed over blocks in float64."""
    total = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    for part in x.split(block):
        total += gram(part).double()
    return total.cpu().numpy()


def folded(
    weight: Tensor, axis: int, old: list[Stratum], new: list[Stratum], matrices: list[np.ndarray]
) -> Tensor:
    """Contract a weight's consumed axis with interpolation matrices.

    Args:
        weight: the full consumed axis; other axes already sliced.
        axis: the consumed axis.
        old, new: strata before and after, in the same order.
        matrices: per stratum T of shape (kept, n).

    Returns:
        the weight with the consumed axis reduced, float64 arithmetic, in the weight's dtype.
    """
    moved = weight.detach().double().movedim(axis, -1)
    groups = 1 + max(s.group for s in old)
    out_rows = moved.shape[0] // groups
    per_old = moved.shape[-1]
    per_new = sum(s.columns.size for s in new) // groups
    result = moved.new_zeros(*moved.shape[:-1], per_new)
    for a, b, matrix in zip(old, new, matrices, strict=True):
        if not b.columns.size:
            continue
        block = slice(a.group * out_rows, (a.group + 1) * out_rows) if groups > 1 else slice(None)
        source = moved[block][..., torch.from_numpy(a.columns.reshape(-1) - a.group * per_old)]
        source = source.view(*source.shape[:-1], *a.columns.shape)
        t = torch.from_numpy(matrix).to(moved.device)
        value = torch.einsum("...np,kn->...kp", source, t)
        columns = torch.from_numpy(b.columns.reshape(-1) - b.group * per_new)
        result[block] = result[block].index_copy(-1, columns, value.reshape(*value.shape[:-2], -1))
    return result.movedim(-1, axis).to(weight.dtype).contiguous()
