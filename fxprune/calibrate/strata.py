"""How a consumer reads its channels: which columns of its input belong to which channel."""

from collections import defaultdict
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
