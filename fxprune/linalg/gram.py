"""The Gram matrix of many rows: A^T A, of which half is computed and the other half mirrored."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

BLOCK, PANEL = 1 << 13, 64
"""Rows that are summed in their own precision; columns of A^T A that one product makes."""
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether products in single precision can be oneDNN's (docs/decisions/0013).

MKL, which torch multiplies with, leaves AVX-512 unused on AMD's processors.
"""


def gram(rows: Tensor) -> Tensor:
    """A^T A of (..., r, f) rows, half of it computed and mirrored where f is large."""
    features = rows.shape[-1]
    if features <= PANEL:
        return rows.mT @ rows
    result = rows.new_empty(*rows.shape[:-2], features, features)
    for start, part in lower_panels(rows.mT.contiguous(), features):
        result[..., start:, start : start + PANEL] = part
    return mirror(result)


def lower_panels(columns: Tensor, features: int) -> Iterator[tuple[int, Tensor]]:
    """The lower triangle of C C^T in panels of columns, with the first `features` of C's rows.

    Args:
        columns: C, (..., n, r): every row holds what was observed of one feature or target.
        features: how many of the n make a column of the result.

    Yields:
        the number of a panel's first column, and its (..., n - that, at most PANEL) entries from
        the diagonal downwards.
    """
    for start in range(0, features, PANEL):
        left, right = columns[..., start:, :], columns[..., start : min(start + PANEL, features), :]
        yield start, _product(left, right)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """A B^T of (..., n, r) and (..., m, r), by the faster library where there is one of each."""
    single = left.shape[:-2].numel() == 1 and left.numel() and right.numel()
    if not (ONEDNN and single and left.device.type == "cpu" and left.dtype == torch.float32):
        return left @ right.mT
    flat = torch.ops.mkldnn._linear_pointwise(
        left.reshape(left.shape[-2:]), right.reshape(right.shape[-2:]), None, "none", [], ""
    )
    return flat.view(*left.shape[:-1], -1)  # type: ignore[no-any-return]


def mirror(lower: Tensor) -> Tensor:
    """Fill the upper triangle of symmetric (..., n, n) matrices from the lower one, in place."""
    for start in range(0, lower.shape[-1] - PANEL, PANEL):
        lower[..., start : start + PANEL, start + PANEL :] = lower[
            ..., start + PANEL :, start : start + PANEL
        ].mT
    return lower


def second_moment(x: Tensor, block: int = 1 << 14) -> np.ndarray:
    """x^T x, (n, n) float64: products in the rows' precision, summed over blocks in float64."""
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    first, *others = x.split(block)
    total = gram(first).double()
    for part in others:
        total += gram(part)
    return total.cpu().numpy()
