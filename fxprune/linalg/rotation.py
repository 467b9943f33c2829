r"""Bases in which keeping the leading coordinates is the best low-rank product.

Channels x with second moments G are read through a positive semidefinite metric M: an error e
costs e^T M e. The best A of rank k minimizes E \|(I - A) x\|_M^2 = \|M^{1/2} (I - A) G^{1/2}\|_F^2.
With the singular value decomposition M^{1/2} G^{1/2} = W S V^T it is A = G^{1/2} V_k V_k^T
G^{-1/2}, and what it costs is the sum of s_i^2 over i > k (Eckart & Young 1936, in the metric of
the data; for value and output matrices Wang et al., "SVD-LLM", 2024, section 3).

A reads x by the rows V_k^T G^{-1/2} only. Their span is all that a selection of k coordinates has
to keep, as the readers are fitted afterwards; it is that of the leading k columns of M G^{1/2} V,
for every k, so that one orthonormal basis serves all widths: `nested_basis`. Where two activations
are multiplied with each other, nothing is fitted in between and both must change along:
`balanced_pair` splits A, as square-root balanced truncation does (Tombs & Postlethwaite 1987).
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from fxprune.linalg.selection import Reader

RIDGE = 1e-6
"""Added to both moments, relative to their mean diagonal, before they are inverted: the basis stays
invertible where a direction is dead, or read by nothing.
"""
DAMPING = 0.1
"""Energy of a direction, relative to the mean, at which half of what is read of it counts."""
TINY = torch.finfo(torch.float64).tiny


def _root(matrix: Tensor) -> Tensor:
    """The symmetric square root; rounding below zero counts as zero."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def _ridged(matrix: Tensor) -> Tensor:
    """A moment, with its ridge."""
    result = (matrix + matrix.T) / 2
    mean = float(result.diagonal().mean())
    result.diagonal().add_(RIDGE * mean if mean > 0 else 1.0)
    return result


def _tails(squares: Tensor) -> np.ndarray:
    """What dropping the last 0, 1, ... of falling costs gives up, (n,)."""
    spent = torch.cat([squares.new_zeros(1), squares.flip(0).cumsum(0)[:-1]])
    return np.asarray(spent.numpy())


def nested_basis(gram: np.ndarray, metric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal coordinates of which, for every k, the first k carry the best product of rank k.

    Args:
        gram: G, second moments of the channels, (n, n) float64.
        metric: M, what errors cost, (n, n) float64.

    Returns:
        (n, n) float64, row j giving the new channel j; and (n,) the least possible cost after
        dropping 0, 1, ... of the last. Directions that are dead or unread come last.
    """
    g, m = torch.from_numpy(gram), torch.from_numpy(metric)
    root = _root(g)
    inner = root @ m @ root
    values, vectors = torch.linalg.eigh((inner + inner.T) / 2)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    columns = m @ (root @ vectors)
    # Each to unit length: what costs next to nothing still has a direction.
    columns = columns / columns.norm(dim=0).clamp(min=TINY)
    basis, triangle = torch.linalg.qr(columns)
    signs = torch.where(triangle.diagonal() < 0, -1.0, 1.0).to(basis)
    return np.ascontiguousarray((basis * signs).T.numpy()), _tails(values)


def mirrored(matrix: Tensor, dim: int) -> Tensor:
    """Along a dimension, the mean's direction and the last coordinate exchanged.

    Args:
        matrix: of any shape, (..., n, ...).
        dim: of the n coordinates, multiplied by the reflection that takes (0, ..., 0, 1) to
            (1, ..., 1) / sqrt(n); it is its own inverse.

    Returns:
        of the same shape and dtype.
    """
    size = matrix.shape[dim]
    axis = torch.full((size,), -(size**-0.5), dtype=torch.float64, device=matrix.device)
    axis[-1] += 1
    length = float(axis.square().sum())
    if length == 0:  # of one coordinate
        return matrix.clone()
    moved = matrix.movedim(dim, -1).to(axis.dtype)
    turned = moved - 2 / length * (moved @ axis)[..., None] * axis
    return turned.movedim(-1, dim).to(matrix.dtype).contiguous()


def stream_basis(gram: np.ndarray, metric: np.ndarray, centered: bool) -> np.ndarray:
    """The nested basis of channels that are normalized together, so that what is dropped of their
    energy changes what they are divided by: directions that are read, but hardly taken, come last.

    With P = G (G + c I)^{-1} for the metric P M P^T: the leading coordinates of the plain nested
    basis span what is read, which need not be where the channels lie.

    Args:
        gram, metric: G and M as for `nested_basis`.
        centered: whether the channels' mean is zero; its direction is the last coordinate then.

    Returns:
        (n, n) float64, row j giving the new channel j; the last is (1, ..., 1) / sqrt(n) where
        `centered`.
    """
    inner = [torch.from_numpy(matrix) for matrix in (gram, metric)]
    if centered:
        inner = [mirrored(mirrored(matrix, 0), 1)[:-1, :-1] for matrix in inner]
    g, m = inner
    damping = max(DAMPING * float(g.diagonal().mean()), TINY) * torch.eye(len(g), dtype=g.dtype)
    taken = torch.linalg.solve(g + damping, g).T
    rows = nested_basis(g.contiguous().numpy(), (taken @ m @ taken.T).numpy())[0]
    if not centered:
        return rows
    basis = torch.eye(len(gram), dtype=g.dtype)
    basis[:-1, :-1] = torch.from_numpy(rows)
    return np.ascontiguousarray(mirrored(basis, 1).numpy())


def dropping_errors(readers: Iterable[Reader]) -> np.ndarray:
    """What dropping the last 0, 1, ... channels costs where nothing stands in for them.

    Args:
        readers: of the channels, which each reads all.

    Returns:
        (n,) rising.
    """
    spent: np.ndarray | float = 0.0
    for reader in readers:
        at = np.ix_(reader.columns, reader.columns)
        cost = (reader.worth * reader.metric * reader.gram)[at]
        # Of the trailing blocks, from the smallest on.
        spent = spent + np.diagonal(cost[::-1, ::-1].cumsum(0).cumsum(1))[:-1]
    return np.maximum.accumulate(np.concatenate([[0.0], np.maximum(spent, 0.0)]))


def balanced_pair(
    gram: np.ndarray, metric: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates of two factors x, y of a product x^T y, of which the first k carry the best
    product of rank k.

    Args:
        gram: G, second moments of x, (n, n) float64.
        metric: M, what errors of x cost through y, (n, n) float64, such as the second moments of y.

    Returns:
        P and P^{-T}, (n, n) float64, so that (P x)^T (P^{-T} y) = x^T y; P x has about the energy
        of x. And (n,) the cost after dropping 0, 1, ... of the last.
    """
    g, m = _ridged(torch.from_numpy(gram)), _ridged(torch.from_numpy(metric))
    scale = float(m.trace() / g.trace())
    first, second = _root(g), _root(m / scale)
    _, values, right = torch.linalg.svd(first @ second)
    # P = S^{-1/2} V^T M^{1/2}: no inverse of a moment.
    weights = values.clamp(min=values[0] * torch.finfo(values.dtype).eps)
    forward = weights.rsqrt()[:, None] * (right @ second)
    backward = torch.linalg.inv(forward).T.contiguous()
    return forward.numpy(), backward.numpy(), _tails(values.square() * scale)
