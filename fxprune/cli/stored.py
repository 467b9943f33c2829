"""Arrays of an .npz by name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fxprune.errors import SourceError

KEYS = ("calibration", "images", "inputs", "x")
"""Inputs looked for in an .npz of several arrays, in this order."""
INPUTS = "the inputs"


def stored(path: Path, keys: Sequence[str], what: str) -> np.ndarray:
    """An array of an .npz: the first of some names that it holds.

    Args:
        path: of the file.
        keys: names, in order.
        what: the array is, in words; of `INPUTS` the only one may have any name.

    Raises:
        SourceError: there is no such file or array, or it cannot be read.
    """
    if not path.is_file():
        raise SourceError(f"There is no file {path}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            held = list(file.files)
            only = held if what == INPUTS and len(held) == 1 else []
            key = next((key for key in (*keys, *only) if key in held), None)
            if key is None:
                raise SourceError(
                    f"{path} holds the arrays {held}; name {what} one of {', '.join(keys)}."
                )
            return np.ascontiguousarray(file[key])
    except SourceError:
        raise
    except Exception as error:  # a damaged archive raises whatever its readers stumble over
        raise SourceError(
            f"{path} cannot be read as an .npz of plain arrays: {type(error).__name__}: {error}."
        ) from error
