"""The Gram matrix of many rows: A^T A, of which half is computed and the other half mirrored."""

from collections.abc import Iterator, Sequence

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
    columns = columns_of([(rows.mT,)], rows.shape[-2])
    for start, part in lower_panels(columns, features, features):
        result[..., start:, start : start + PANEL] = part
    return mirror(result)


def columns_of(pieces: Sequence[Sequence[Tensor]], count: int) -> Tensor:
    """Pieces side by side, each of (..., n, r) parts below each other: one (..., N, R) with zeros
    around them.

    Where oneDNN multiplies them, N and R are multiples of `PANEL`: it makes code for every new
    shape of a product, which takes three times as long as the product itself.

    Args:
        pieces: of so many columns together.
        count: of columns.
    """
    first, step = pieces[0][0], PANEL if _is_single(pieces[0][0]) else 1
    size = sum(part.shape[-2] for part in pieces[0])
    shape = (-(-number // step) * step for number in (size, count))
    found = first.new_empty(*first.shape[:-2], *shape)
    found[..., size:, :], found[..., count:] = 0, 0
    column = 0
    for piece in pieces:
        row, stop = 0, column + piece[0].shape[-1]
        for part in piece:
            found[..., row : row + part.shape[-2], column:stop] = part
            row += part.shape[-2]
        column = stop
    return found


def lower_panels(columns: Tensor, features: int, size: int) -> Iterator[tuple[int, Tensor]]:
    """The lower triangle of C C^T in panels of columns, with the first `features` of C's rows.

    Args:
        columns: C, from `columns_of`: every row holds what was observed of one feature or target.
        features: how many of the rows make a column of the result.
        size: how many of the rows there are, n.

    Yields:
        the number of a panel's first column, and its (..., n - that, at most PANEL) entries from
        the diagonal downwards.
    """
    whole = columns.shape[-2] % PANEL == 0
    for start in range(0, features, PANEL):
        stop = min(start + PANEL, features)
        right = columns[..., start : start + PANEL if whole else stop, :]
        part = _product(columns[..., start:, :], right)
        yield start, part[..., : size - start, : stop - start]


def _is_single(columns: Tensor) -> bool:
    """Whether there is one matrix of single precision, which oneDNN takes."""
    single = columns.shape[:-2].numel() == 1 and columns.dtype == torch.float32
    return ONEDNN and single and columns.device.type == "cpu"


def _product(left: Tensor, right: Tensor) -> Tensor:
    """A B^T of (..., n, r) and (..., m, r), by the faster library where there is one of each."""
    if not (_is_single(left) and left.numel() and right.numel()):
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
