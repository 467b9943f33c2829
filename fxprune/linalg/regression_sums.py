r"""Sums over rows from which every least-squares fit of targets Y to features P is solved.

Count, sums and products of P and Y are enough for the fit with or without intercept at any ridge,
for its residual, and for the covariance of its outputs: the rows themselves need not be kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fxprune.linalg.gram import BLOCK, PANEL, columns_of, lower_panels, mirror
from fxprune.linalg.tree_sum import Terms, TreeSum

ROWS = 1024
"""That wait until one product is made of them: of a tenth of it takes three times as long a row."""
COVARIANCE_SHRINKAGE = 0.2
"""Of a covariance towards its diagonal, per (features / rows) (docs/decisions/0007)."""


@dataclass(frozen=True)
class RegressionSums:
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

    def __add__(self, other: "RegressionSums") -> "RegressionSums":
        return RegressionSums(
            self.count + other.count,
            self.p + other.p,
            self.y + other.y,
            self.pp + other.pp,
            self.py + other.py,
            self.yy + other.yy,
        )

    def part(self, outputs: slice) -> "RegressionSums":
        """Those of some of the outputs, where these lie."""
        y, py, yy = self.y[:, outputs], self.py[..., outputs], self.yy[:, outputs]
        return RegressionSums(self.count, self.p, y, self.pp, py, yy)

    def centered(self) -> "RegressionSums":
        """The same sums about the means."""
        n = max(self.count, 1.0)
        return RegressionSums(
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
        inner.diagonal(dim1=1, dim2=2).mul_(1 + COVARIANCE_SHRINKAGE * weight.shape[2] / n)
        return weight @ inner @ weight.mT / n, (weight @ self.p[:, :, None])[:, :, 0] / n

    def residual(self, weight: Tensor) -> float:
        """Sum of squared errors of a (g, o, f) weight, without intercept."""
        error = (
            self.yy.sum() - 2 * (weight.mT * self.py).sum() + (weight * (weight @ self.pp)).sum()
        )
        return max(float(error), 0.0)


class RegressionAccumulator:
    """Adds up rows that come in pieces: products in their own precision, sums in float64.

    Args:
        tree: in which they are added; of this process alone by default.
    """

    def __init__(self, tree: TreeSum | None = None) -> None:
        self.tree = TreeSum() if tree is None else tree
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._leaf = self._count = 0

    def add(self, rows: Tensor, target: Tensor, leaf: int = 0) -> None:
        """Count (g, r, f) rows and (g, r, o) targets at a leaf of the tree."""
        if leaf != self._leaf:
            self.close()
            self._leaf = leaf
        for x, y in zip(rows.split(BLOCK, 1), target.split(BLOCK, 1), strict=True):
            if x.dtype in (torch.float16, torch.bfloat16):
                x, y = x.float(), y.float()
            self._waiting.append((x, y))
            self._count += x.shape[1]
            if self._count >= ROWS:
                self.close()

    def close(self) -> None:
        """Make the products of what waits."""
        if self._waiting:
            self.tree.add(self._leaf, _products(self._waiting, self._count))
            self._waiting, self._count = [], 0

    def total(self) -> RegressionSums | None:
        """Of all rows so far; None of none."""
        self.close()
        return sums_of(self.tree.total())


def _products(pieces: Sequence[tuple[Tensor, Tensor]], count: int) -> Terms:
    """Of so many rows: their number, sums of columns, of squared targets, and products in panels
    from the diagonal downwards.
    """
    features, outputs = (part.shape[2] for part in pieces[0])
    columns = columns_of([(x.mT, y.mT) for x, y in pieces], count)
    size = features + outputs
    squares = columns[:, features:size].double().square().sum(2)
    panels = [part for _, part in lower_panels(columns, features, size)]
    number = torch.tensor(count, dtype=torch.float64)
    return [number, columns[:, :size].sum(2, dtype=torch.float64), squares, *panels]


def sums_of(terms: Terms | None) -> RegressionSums | None:
    """What an accumulator's terms say; None of no terms."""
    if terms is None:
        return None
    count, first, squares, *panels = terms
    features = first.shape[1] - squares.shape[1]
    products = first.new_zeros(*first.shape, features)
    for at, panel in zip(range(0, features, PANEL), panels, strict=True):
        products[:, at:, at : at + PANEL] = panel
    pp, py = mirror(products[:, :features].clone()), products[:, features:].mT
    return RegressionSums(float(count), first[:, :features], first[:, features:], pp, py, squares)
