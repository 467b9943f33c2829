"""Examples that nearly repeat others: frames of one scene, crops of one photograph."""

import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fxprune.calibrate.joined import has_rows
from fxprune.calibrate.loader import Calibration
from fxprune.capture.batch import Batch
from fxprune.errors import CalibrationWarning

SAMPLE, RUN = 2000, 20
"""Examples that are compared at most, and neighbors in the loader's order that are drawn together:
frames often come one after the other.
"""
SIDE, WIDTH, FEWEST = 16, 1024, 50
"""Pixels along every axis and numbers of an example that are compared at most; the fewest examples.
"""
BLOCK = 200
"""Examples that are compared with all others at a time."""
CLOSE = 0.3
"""Share of the expected distance to the nearest other example below which two are too close."""
SHARE = 0.25
"""Share of the examples that is too close by chance where few dimensions count, at most.

The expected distance is that of as many examples of the same spread: half of the pairs lie nearer
than the median distance, so of N examples in d dimensions the nearest other one is expected near
the median times N^(-1/d), with d the participation ratio of the covariance's eigenvalues. On
Fashion-MNIST none is below 0.3 of it, on frames of scenes with noise of a fifth of their contrast
all are (tests/calibrate/test_near_duplicates.py).
"""

POOL: Mapping[int, Callable[..., Tensor]] = {
    3: functional.adaptive_avg_pool1d,
    4: functional.adaptive_avg_pool2d,
    5: functional.adaptive_avg_pool3d,
}
"""By the number of dimensions."""


def warn_of_near_duplicates(calibration: Calibration, seed: int) -> str | None:
    """Warn where many calibration examples nearly repeat others that are not of their group.

    Args:
        calibration: the examples; those with floating inputs of the commonest size are looked at.
        seed: of the sample.

    Returns:
        the warning, for the report; None where there is no ground for one.
    """
    chosen = _sample(calibration.size, np.random.default_rng(seed))
    rows, last = list[Tensor](), None
    for batch in calibration.batches(chosen):
        found = _looked_at(batch)
        if found is None or (last is not None and found.shape[1:] != last):
            return None
        last = found.shape[1:]
        rows.append(found)
    table = torch.cat(rows)
    if len(table) < FEWEST:
        return None
    close = too_close(table, torch.from_numpy(calibration.groups[chosen]))
    if close < SHARE * len(table):
        return None
    text = (
        f"{close} of {len(table)} calibration examples looked at nearly repeat another one, such "
        "as frames of one scene do. The certified bound holds for independent examples only: pass "
        "groups= (one label per example) to split and certify by what belongs together"
    )
    warnings.warn(f"{text}.", CalibrationWarning, stacklevel=5)
    return text


def too_close(table: Tensor, groups: Tensor) -> int:
    """How many examples have one of another group much closer than expected by chance.

    Args:
        table: (examples, numbers) float32.
        groups: (examples,) int64.
    """
    table = table - table.mean(0)
    covariance = table.mT @ table
    dimensions = float(covariance.trace() ** 2 / covariance.square().sum().clamp(min=1e-30))
    if len(groups.unique()) < 2 or not dimensions > 0:
        return 0
    some = torch.arange(0, len(table), -(-len(table) // BLOCK))
    apart = torch.cdist(table[some], table)
    median = float(apart[groups[some, None] != groups].median())
    nearest = torch.cat(
        [
            torch.cdist(part, table).masked_fill_(own[:, None] == groups, torch.inf).min(1).values
            for part, own in zip(table.split(BLOCK), groups.split(BLOCK), strict=True)
        ]
    )
    expected = median * len(table) ** (-1 / dimensions)
    return int((nearest < CLOSE * expected).sum())


def _sample(examples: int, random: np.random.Generator) -> np.ndarray:
    """Runs of neighbors, (examples,) bool."""
    starts = random.permutation(-(-examples // RUN))[: SAMPLE // RUN]
    return np.isin(np.arange(examples) // RUN, starts)


def _looked_at(batch: Batch) -> Tensor | None:
    """Floating inputs of every example, coarsely; None where there are none."""
    parts = []
    for value in batch.tensors():
        if not has_rows((value,), (batch.size,)) or not value.is_floating_point():
            continue
        value = value.detach().cpu().float()
        if value.dim() in POOL and value.numel():
            value = POOL[value.dim()](value, [min(s, SIDE) for s in value.shape[2:]])
        flat = value.reshape(batch.size, -1)
        if flat.shape[1] > WIDTH:
            flat = functional.adaptive_avg_pool1d(flat[:, None], WIDTH)[:, 0]
        parts.append(flat)
    return torch.cat(parts, 1) if parts else None
