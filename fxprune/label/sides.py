"""Components of what the rules united, and the two sides of products within them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fxprune.rules.recorder import Recorder


def components(edges: Sequence[Tensor], size: int) -> np.ndarray:
    """Component of every label, numbered by its lowest label; (size,).

    Args:
        edges: (n, 2) each, pairs of labels that live or die together.
        size: labels there are.
    """
    pairs = torch.cat(list(edges)).numpy() if edges else np.zeros((0, 2), dtype=np.int64)
    return _connected(pairs, size)


def _connected(pairs: np.ndarray, size: int) -> np.ndarray:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # Before SciPy 1.13, csgraph takes 32-bit indices only.
    rows, columns = pairs.astype(np.int32).T
    matrix = coo_array((np.ones(len(pairs), dtype=np.int8), (rows, columns)), shape=(size, size))
    component: np.ndarray = connected_components(matrix, directed=False)[1]
    return component


def find_sides(record: Recorder) -> dict[tuple[str, int], np.ndarray]:
    """On which side of a product of two activations each position of a weight axis lies: 0 for what
    is met first, 1 for what it is multiplied with, -1 where both are one.

    Queries and keys are one channel group, as they live or die together; without the products they
    fall apart, and what a product joins lies on opposite sides (a two-coloring, found as the
    components of the bipartite double cover).

    Returns:
        by (parameter, axis), of the shape of its labels; axes of which everything is 0 are left
        out.
    """
    if not record.paired:
        return {}
    paired = set(record.paired)
    alone = components(
        [edge for i, edge in enumerate(record.edges) if i not in paired], record.next_label
    )
    count = int(alone.max()) + 1
    left, right = alone[torch.cat([record.edges[i] for i in record.paired]).numpy()].T
    cover = np.stack([np.r_[left, right], np.r_[right, left] + count], 1)
    found = _connected(cover, 2 * count)
    first, second = found[:count], found[count:]
    side = np.where(first == second, -1, (first > second).astype(np.int64))
    sides = {key: side[alone[axis.labels.numpy()]] for key, axis in record.axes.items()}
    return {key: own for key, own in sides.items() if own.any()}
