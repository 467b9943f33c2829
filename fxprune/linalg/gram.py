"""Sums of products of rows: A^T A, and the moments that a least-squares fit needs."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SHRINKAGE = 0.2
"""Of a covariance towards its diagonal, per (features / rows)."""


BLOCK, PANEL = 1 << 13, 64
"""Rows whose products are summed in their own precision; columns of A^T A that are made by one
product.
"""


ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether products in single precision can be oneDNN's: MKL, which torch multiplies with, leaves
AVX-512 unused on AMD's processors.
"""


def gram(rows: Tensor) -> Tensor:
    """A^T A of (..., r, f) rows, half of it computed and mirrored where f is large."""
    features = rows.shape[-1]
    if features <= PANEL:
        return rows.mT @ rows
    result = rows.new_empty(*rows.shape[:-2], features, features)
    for start, part in _triangle(rows.mT.contiguous(), features):
        result[..., start:, start : start + PANEL] = part
    return _mirrored(result)


def _triangle(columns: Tensor, features: int) -> Iterator[tuple[int, Tensor]]:
    """Products of (..., n, r) columns with the first of them, a few of those after the other, from
    the diagonal downwards.

    Yields:
        the number of the first, and (..., n - that, at most PANEL) products.
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


def _mirrored(lower: Tensor) -> Tensor:
    """A symmetric matrix of its lower triangle, in place."""
    for start in range(0, lower.shape[-1] - PANEL, PANEL):
        lower[..., start : start + PANEL, start + PANEL :] = lower[
            ..., start + PANEL :, start : start + PANEL
        ].mT
    return lower


@dataclass(frozen=True)
class Moments:
    """Sums over rows of f features and o targets in each of g independent groups, float64.

    Attributes:
        count: rows.
        p, y: sums, (g, f) and (g, o).
        pp, py, yy: P^T P (g, f, f), P^T Y (g, f, o), sum of Y^2 per output (g, o).
    """

    count: float
    p: Tensor
    y: Tensor
    pp: Tensor
    py: Tensor
    yy: Tensor

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count,
            self.p + other.p,
            self.y + other.y,
            self.pp + other.pp,
            self.py + other.py,
            self.yy + other.yy,
        )

    def centered(self) -> "Moments":
        """The same sums about the means."""
        n = max(self.count, 1.0)
        return Moments(
            self.count,
            self.p,
            self.y,
            self.pp - self.p[:, :, None] * self.p[:, None] / n,
            self.py - self.p[:, :, None] * self.y[:, None] / n,
            self.yy - self.y.square() / n,
        )

    def outputs(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Covariance (g, o, o) and mean (g, o) of P W^T, for a (g, o, f) weight.

        The features' covariance is shrunk towards its diagonal by what few rows leave
        undetermined, so that directions which the rows do not show count by their weights.
        """
        n = max(self.count, 1.0)
        inner = self.centered().pp
        inner.diagonal(dim1=1, dim2=2).mul_(1 + SHRINKAGE * weight.shape[2] / n)
        return weight @ inner @ weight.mT / n, (weight @ self.p[:, :, None])[:, :, 0] / n

    def residual(self, weight: Tensor) -> float:
        """Sum of squared errors of a (g, o, f) weight, without intercept."""
        error = (
            self.yy.sum() - 2 * (weight.mT * self.py).sum() + (weight * (weight @ self.pp)).sum()
        )
        return max(float(error), 0.0)


class Sums:
    """Moments of rows that come in pieces: products in the rows' precision, summed over blocks in
    float64.
    """

    def __init__(self) -> None:
        self._count, self._sums = 0, list[Tensor]()

    def add(self, rows: Tensor, target: Tensor) -> None:
        """Count (g, r, f) rows and (g, r, o) targets."""
        for x, y in zip(rows.split(BLOCK, 1), target.split(BLOCK, 1), strict=True):
            if x.dtype in (torch.float16, torch.bfloat16):
                x, y = x.float(), y.float()
            (groups, count, features), outputs = x.shape, y.shape[2]
            columns = torch.cat([x.mT, y.mT], 1)
            if not self._sums:
                shapes = (features + outputs,), (features + outputs, features), (outputs,)
                self._sums = [x.new_zeros(groups, *shape, dtype=torch.float64) for shape in shapes]
            first, second, squares = self._sums
            first += columns.sum(2, dtype=torch.float64)
            for start, part in _triangle(columns, features):
                second[:, start:, start : start + PANEL] += part
            squares += y.double().square().sum(1)
            self._count += count

    def total(self) -> Moments | None:
        """Of all rows so far; None of none."""
        if not self._sums:
            return None
        first, second, squares = self._sums
        features = second.shape[2]
        pp, py = _mirrored(second[:, :features].clone()), second[:, features:].mT
        return Moments(
            float(self._count), first[:, :features], first[:, features:], pp, py, squares
        )


def second_moment(x: Tensor, block: int = 1 << 14) -> np.ndarray:
    """x^T x, (n, n) float64: products in the rows' precision, summed over blocks in float64."""
    total = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    for part in x.split(block):
        total += gram(part).double()
    return total.cpu().numpy()
