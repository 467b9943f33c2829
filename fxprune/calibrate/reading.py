"""What a calibration loader yields, and the check that its batches are of one kind."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from fxprune.capture.batch import Batch, is_mask, require_alike
from fxprune.errors import CalibrationError, FxpruneError

NAMED = 5
"""Examples that a message names at most."""


def ignore_item(item: Any, size: int) -> None:
    """Nobody watches what a loader yields."""


def read_items(loader: Any) -> Iterator[Any]:
    """What a loader yields; one tensor or dict is its only batch.

    Raises:
        CalibrationError: it cannot be iterated, or fails on the way; says after how many batches.
    """
    if not isinstance(loader, (Tensor, dict, Iterable)):
        raise CalibrationError(
            f"The calibration loader is a {type(loader).__name__}, which cannot be iterated."
        )
    count = 0
    try:
        for item in [loader] if isinstance(loader, (Tensor, dict)) else loader:
            yield item
            count += 1
    except FxpruneError:
        raise
    except Exception as error:
        raise CalibrationError(
            f"The calibration loader, a {type(loader).__name__}, fails after {count} batches: "
            f"{type(error).__name__}: {error}."
        ) from error


def check_like(first: Batch, batch: Batch, at: int) -> None:
    """Check that a batch has the first one's dtypes and numbers of dimensions, and is finite.

    Args:
        at: number of its first example, for messages.
    """
    require_alike(first, batch, at)
    for a, b in zip(first.tensors(), batch.tensors(), strict=True):
        if a.dtype != b.dtype or a.dim() != b.dim():
            raise CalibrationError(
                f"The calibration batch from example {at} has a tensor {tuple(b.shape)} "
                f"{b.dtype}, the first one {tuple(a.shape)} {a.dtype}."
            )
        if b.is_floating_point() and not torch.isfinite(b).all() and not is_mask(b):
            raise CalibrationError(
                f"The calibration batch from example {at} holds NaN or infinite values"
                f"{_where(b, batch.size, at)}. Clean the data first."
            )


def _where(tensor: Tensor, size: int, at: int) -> str:
    """Which examples of a batch are not finite, where each has a row of the tensor."""
    if not tensor.dim() or len(tensor) != size:
        return ""
    numbers = [at + int(row) for row in (~tensor.isfinite()).flatten(1).any(1).nonzero()[:, 0]]
    shown, more = ", ".join(map(str, numbers[:NAMED])), len(numbers) - NAMED
    return f" in {shown}" + (f" and {more} more" if more > 0 else "")
