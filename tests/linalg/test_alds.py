"""The bound against the error of the factors that it is a bound of."""

import numpy as np
import scipy.linalg
import torch

from fxprune.linalg import alds, svd
from tests.tensors import normal


def test_alds_bounds_the_operator_norm() -> None:
    weight = normal(1, 1, 6, 12)
    whole = scipy.linalg.svdvals(weight[0, 0].numpy())
    np.testing.assert_allclose(alds.bounds(weight), [*(whole / whole[0]), 0])
    for parts in (2, 3, 4):
        cut = torch.stack(weight[0, 0].chunk(parts, 1))[None]
        found = alds.bounds(cut)
        for rank in range(1, min(cut.shape[-2:])):
            left, right = svd.factor(cut, rank)
            rest = torch.cat(list((cut - left @ right)[0]), 1)
            assert np.linalg.norm(rest.numpy(), 2) / whole[0] <= found[rank] + 1e-12
