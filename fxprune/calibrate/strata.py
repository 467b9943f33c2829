"""How a consumer reads its channels: which columns of its input belong to which channel, and what
comes of its weight when the channels are made of others.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


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


@dataclass(frozen=True)
class StratumPair:
    """A stratum before and after channels are removed.

    Attributes:
        before: the n channels of the full weight.
        after: those that survive, k of them; none where nothing does.
    """

    before: Stratum
    after: Stratum

    @property
    def kept(self) -> np.ndarray:
        """(k,) places of the surviving channels among those before."""
        place = {key: i for i, key in enumerate(self.before.keys.tolist())}
        return np.array([place[key] for key in self.after.keys.tolist()], dtype=np.int64)


def pair_strata(before: Sequence[Stratum], after: Sequence[Stratum]) -> list[StratumPair]:
    """Every stratum with its surviving part."""
    survivors = {(s.group, s.columns.shape[1]): s for s in after}
    pairs = []
    for stratum in before:
        columns = stratum.columns.shape[1]
        nothing = np.zeros(0, dtype=np.int64), np.zeros((0, columns), dtype=np.int64)
        empty = Stratum(stratum.group, *nothing)
        pairs.append(StratumPair(stratum, survivors.get((stratum.group, columns), empty)))
    return pairs


def contract(
    weight: Tensor, axis: int, pairs: Sequence[StratumPair], matrices: Sequence[np.ndarray]
) -> Tensor:
    """Contract a weight's consumed axis with interpolation matrices.

    Args:
        weight: the full consumed axis; other axes already sliced.
        axis: the consumed axis.
        pairs: the strata of that axis.
        matrices: per stratum T of shape (k, n).

    Returns:
        the weight with the consumed axis reduced, float64 arithmetic, in the weight's dtype.
    """
    moved = weight.detach().double().movedim(axis, -1)
    groups = 1 + max(pair.before.group for pair in pairs)
    outputs = moved.shape[0] // groups
    width = moved.shape[-1]
    reduced_width = sum(pair.after.columns.size for pair in pairs) // groups
    result = moved.new_zeros(*moved.shape[:-1], reduced_width)
    for pair, matrix in zip(pairs, matrices, strict=True):
        if not pair.after.columns.size:
            continue
        group = pair.before.group
        own = slice(group * outputs, (group + 1) * outputs) if groups > 1 else slice(None)
        read = torch.from_numpy(pair.before.columns.reshape(-1) - group * width)
        source = moved[own][..., read]
        source = source.view(*source.shape[:-1], *pair.before.columns.shape)
        interpolate = torch.from_numpy(matrix).to(moved.device)
        value = torch.einsum("...np,kn->...kp", source, interpolate)
        columns = pair.after.columns.reshape(-1) - group * reduced_width
        written = torch.from_numpy(columns).to(moved.device)
        result[own] = result[own].index_copy(-1, written, value.reshape(*value.shape[:-2], -1))
    return result.movedim(-1, axis).to(weight.dtype).contiguous()
