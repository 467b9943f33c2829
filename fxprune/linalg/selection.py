r"""Column subset selection: nested removal orders and the error at every width.

Two selectors. `pivoted_qr` keeps the columns that column-pivoted QR of X picks first (Chee et al.
2022; `linalg.pivoted_qr`). `output_aware` removes, one after another,
the channel whose loss changes the consumers' outputs least when all remaining channels are
re-interpolated: for a consumer with weight W and H = (X^T X)^{-1} removing channel j costs
\|W_j\|^2 / H_jj (the optimal brain surgeon for channels; Hassibi & Stork 1993, Kurtic et al.
2023), and both W and H are updated in closed form.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from fxprune.linalg.pivoted_qr import pivoted_qr

TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Reader:
    """One consumer of a channel group.

    Attributes:
        gram: X^T X of everything the consumer reads, (n, n) float64.
        weigh: makes the metric; not every selector reads it.
        columns: (channels,) place of each of the group's channels in X, -1 where it is not read.
        scale: what one unit of squared output error costs; None counts errors relative to the
            output's own energy.
    """

    gram: np.ndarray
    weigh: Callable[[], np.ndarray]
    columns: np.ndarray
    scale: float | None = None

    @cached_property
    def metric(self) -> np.ndarray:
        """W^T G W summed over kernel positions, with G = I or the sensitivity to output errors, (n,
        n) float64.
        """
        return self.weigh()

    @property
    def worth(self) -> float:
        """What one unit of squared output error costs, whatever it is relative to."""
        if self.scale is not None:
            return self.scale
        energy = float((self.metric * self.gram).sum())
        return 1 / energy if energy > 0 else 0.0


@dataclass(frozen=True)
class Removal:
    """A nested order of removal.

    Attributes:
        order: (blocks, size) channel indices, first removed first; every prefix of columns is a
            plan.
        errors: (size,) squared output error, in the readers' scales, after removing 0, 1, ...
            channels of each block.
    """

    order: np.ndarray
    errors: np.ndarray


class _State:
    """One reader during elimination; only what is left of its moments is kept."""

    def __init__(self, reader: Reader, ridge: float):
        gram, metric = torch.from_numpy(reader.gram), torch.from_numpy(reader.metric)
        # Unread slots: -1 points at a last, empty place.
        self.place = torch.from_numpy(np.where(reader.columns >= 0, reader.columns, len(gram)))
        mean = float(gram.diagonal().mean()) or 1.0
        system = gram.clone()
        system.diagonal().add_(ridge * mean)
        self.inverse = torch.linalg.inv(system)
        self.metric = metric.clone()
        self.left = torch.ones(len(gram), dtype=torch.bool)
        energy = float((metric * gram).sum())
        self.scale = reader.scale if reader.scale is not None else 1 / energy if energy > 0 else 0.0

    def costs(self) -> np.ndarray:
        """Relative output error of removing each channel alone, (channels,)."""
        costs = (
            self.metric.diagonal().clamp(min=0)
            / self.inverse.diagonal().clamp(min=TINY)
            * self.scale
        )
        return torch.cat([costs, costs.new_zeros(1)])[self.place].numpy()

    def remove(self, channels: np.ndarray) -> None:
        """Remove several channels at once: the block form of the rank-one update. What is removed
        is left as zeros until half of all is.
        """
        size = len(self.metric)
        gone = self.place[torch.from_numpy(channels)]
        gone = gone[gone < size]
        if not len(gone):
            return
        rows, costs = self.inverse[gone], self.metric[gone]
        # Coefficients that rebuild the removed channels' share, (gone, size).
        step = torch.linalg.solve(rows[:, gone], rows)
        self.inverse.addmm_(rows.T, step, alpha=-1)
        self.metric.addmm_(step.T, costs, alpha=-1).addmm_(
            (costs - costs[:, gone] @ step).T, step, alpha=-1
        )
        self.place[torch.from_numpy(channels)] = size
        self.left[gone] = False
        left = self.left.nonzero()[:, 0]
        if 2 * len(left) < size:
            self.inverse, self.metric, self.left = (
                self.inverse[left][:, left],
                self.metric[left][:, left],
                self.left[left],
            )
            moved = torch.full((size + 1,), len(left))
            moved[left] = torch.arange(len(left))
            self.place = moved[self.place]


def dependent(
    readers: list[Reader], blocks: np.ndarray, ridge: float, tolerance: float
) -> np.ndarray:
    """Channels whose removal leaves every consumer's output unchanged: dead ones and exact linear
    combinations.

    Args:
        readers: the group's consumers.
        blocks: (blocks, size) channel indices.
        ridge: relative Tikhonov weight, a little above the precision of the moments.
        tolerance: largest relative squared output error that counts as none.

    Returns:
        (blocks, k) channel indices in order of removal; at least one channel per block stays.
    """
    states = [_State(reader, ridge) for reader in readers]
    left = np.ones(blocks.shape, dtype=bool)
    found: list[np.ndarray] = []
    total = 0.0
    while len(found) < blocks.shape[1] - 1:
        costs = sum((s.costs() for s in states), np.zeros(blocks.size))
        table = np.where(left, costs[blocks], np.inf)
        chosen = table.argmin(1)[:, None]
        total += float(np.take_along_axis(table, chosen, 1).sum())
        if total > tolerance:
            break
        found.append(np.take_along_axis(blocks, chosen, 1))
        np.put_along_axis(left, chosen, False, 1)
        for state in states:
            state.remove(found[-1].reshape(-1))
    return np.concatenate(found, 1) if found else blocks[:, :0]


def output_aware(
    readers: list[Reader],
    blocks: np.ndarray,
    ridge: float,
    batch: int = 1,
    first: np.ndarray | None = None,
) -> Removal:
    """Greedy backward elimination over all consumers of a group.

    Args:
        readers: the group's consumers.
        blocks: (blocks, size) channel indices into each reader's `columns`; each round takes one
            from every block.
        ridge: relative Tikhonov weight of the interpolation the costs assume.
        batch: channels removed between two updates; 1 is exact greedy.
        first: (blocks, k) channels removed before any other, at no cost (from `dependent`).
    """
    states = [_State(reader, ridge) for reader in readers]
    count, size = blocks.shape
    left = np.ones(blocks.shape, dtype=bool)
    order = np.zeros(blocks.shape, dtype=np.int64)
    errors = np.zeros(size)
    done, total = 0, 0.0
    if first is not None and first.size:
        done = first.shape[1]
        order[:, :done] = first
        left &= ~np.isin(blocks, first)
        for state in states:
            state.remove(first.reshape(-1))
    while done < size:
        costs = sum((s.costs() for s in states), np.zeros(blocks.size))
        table = np.where(left, costs[blocks], np.inf)
        step = min(batch, size - done)
        chosen = np.argsort(table, axis=1, kind="stable")[:, :step]
        picked = np.take_along_axis(blocks, chosen, 1)
        order[:, done : done + step] = picked
        np.put_along_axis(left, chosen, False, 1)
        spent = np.take_along_axis(table, chosen, 1).sum(0)
        for i in range(step):
            if done + i + 1 < size:
                total += float(spent[i])
                errors[done + i + 1] = total
        if done + step < size:
            for state in states:
                state.remove(picked.reshape(-1))
        done += step
    return Removal(order, errors)


def removal_errors(
    readers: list[Reader], order: np.ndarray, ridge: float, batch: int = 1
) -> np.ndarray:
    """What an order of removal costs at every width, when the rest is re-interpolated.

    Args:
        readers: the group's consumers.
        order: (blocks, size) channel indices, first removed first.
        ridge: relative Tikhonov weight of the interpolation the costs assume.
        batch: channels removed between two updates.

    Returns:
        (size,) squared output error after removing 0, 1, ... channels of each block.
    """
    states = [_State(reader, ridge) for reader in readers]
    # torch takes no view that runs backwards, which an order from last to first may be.
    order, spent = np.ascontiguousarray(order), np.zeros(order.shape[1])
    for done in range(0, order.shape[1], batch):
        step = order[:, done : done + batch]
        costs = sum((s.costs() for s in states), np.zeros(order.size))
        spent[done : done + batch] = costs[step].sum(0)
        for state in states:
            state.remove(step.reshape(-1))
    return np.concatenate([[0.0], np.cumsum(spent)[:-1]])


def pivoted_removal(
    gram: np.ndarray, columns: np.ndarray, blocks: np.ndarray
) -> tuple[Removal, np.ndarray]:
    """The reverse of the pivoted-QR order as a removal, with relative residuals, and |r_kk / r_11|
    per width.

    Args:
        gram: (n, n) of one reader.
        columns: (channels,) place of each channel in it.
        blocks: (blocks, size) channel indices.

    Returns:
        the removal and (size,) scores: |r_kk / r_11| of the last channel kept at each removal
        count.
    """
    order, diagonal = pivoted_qr(gram[np.ix_(columns, columns)])
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    table = np.argsort(-rank[blocks], axis=1, kind="stable")
    removal = np.take_along_axis(blocks, table, 1)
    energy = diagonal**2
    dropped = energy[rank[removal]].sum(0)
    errors = np.concatenate([[0.0], np.cumsum(dropped)[:-1]]) / max(
        float(np.trace(gram)), np.finfo(float).tiny
    )
    scores = diagonal[rank[removal]].max(0) / max(float(diagonal[0]), np.finfo(float).tiny)
    return Removal(removal, errors), scores
