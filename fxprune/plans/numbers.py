"""What callers give as numbers: Python's, NumPy's, and tensors of one element without an axis."""

from typing import Any

import numpy as np
from torch import Tensor


def read_number(value: Any) -> Any:
    """A number as Python's own int or float; anything else as it is, bools too."""
    if isinstance(value, Tensor) and not value.dim() and not value.is_meta:
        value = value.item()
    elif isinstance(value, np.ndarray) and not value.ndim:
        value = value.item()
    if isinstance(value, (np.integer, np.floating)):
        value = value.item()
    return value


def is_number(value: Any) -> bool:
    """An int or float; True is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
