"""Matrices of known condition number, and sums over rows."""

import numpy as np
from torch import Tensor

from fxprune.linalg.regression_sums import RegressionAccumulator, RegressionSums

ROWS, COLUMNS = 200, 12


def matrix(condition: float, seed: int = 0, rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """Columns of known condition number."""
    generator = np.random.default_rng(seed)
    left, _ = np.linalg.qr(generator.standard_normal((rows, columns)))
    right, _ = np.linalg.qr(generator.standard_normal((columns, columns)))
    return np.asarray((left * np.geomspace(1, 1 / condition, columns)) @ right)


def sums(p: Tensor, y: Tensor) -> RegressionSums:
    """Of features (g, rows, f) and targets (g, rows, o)."""
    accumulator = RegressionAccumulator()
    accumulator.add(p, y)
    found = accumulator.total()
    assert found is not None
    return found
