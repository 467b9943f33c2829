"""Matrices of known condition number."""

import numpy as np

ROWS, COLUMNS = 200, 12


def matrix(condition: float, seed: int = 0, rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """Columns of known condition number."""
    generator = np.random.default_rng(seed)
    left, _ = np.linalg.qr(generator.standard_normal((rows, columns)))
    right, _ = np.linalg.qr(generator.standard_normal((columns, columns)))
    return np.asarray((left * np.geomspace(1, 1 / condition, columns)) @ right)
