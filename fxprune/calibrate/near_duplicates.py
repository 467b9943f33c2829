"""Examples that nearly repeat others: frames of one scene by their inputs, crops of one photograph
by what the model sees in them.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fxprune.calibrate.joined import has_rows
from fxprune.calibrate.loader import Calibration
from fxprune.calibrate.penultimate import Seen
from fxprune.capture.batch import Batch
from fxprune.errors import warn_caller

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
NEAR, FAR = 20, 5
"""Parts of the examples whose last member says how features spread around an example."""
ALIKE, CHANCE = 0.6, 0.08
"""Share of the expected distance between features below which two are alike, and the share of
examples that may be by chance.

Features crowd by class, so that what is close depends on where one stands: with neighbors at r and
R around an example, the N/20-th and the N/5-th of N, they spread there in d = log 4 / log(R/r)
dimensions (the median over the examples), and the nearest is expected at r (N/20)^(-1/d); in few
dimensions it often is much nearer. Distances are those of cosines, of features about their mean.
"""
SIMILAR = 0.05
"""Share of the other examples that may be nearer in the distribution of their values than the one
whose features are nearest: examples of one class are not alike in that, crops of one photograph
are. All are set on crops of photographs whose photograph is known, and on Fashion-MNIST (`python -m
benchmarks.near_duplicates`, docs/decisions/0018).
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
    chosen = sample(calibration.size, seed)
    rows, last = list[Tensor](), None
    for batch in calibration.batches(chosen):
        found = _looked_at(batch.part(0, batch.own))
        if found is None or (last is not None and found.shape[1:] != last):
            return None
        last = found.shape[1:]
        rows.append(found)
    table = torch.cat(rows)
    if len(table) < FEWEST:
        return None
    close = too_close(table, torch.from_numpy(calibration.groups[chosen]))
    return _warn(close, len(table), "nearly repeat another one, such as frames of one scene do")


def warn_of_alike_examples(seen: Seen, groups: np.ndarray) -> str | None:
    """Warn where a model sees nearly the same in many calibration examples that are not of one
    group.

    Args:
        seen: what is known of the examples.
        groups: (examples,) number of every example's group.

    Returns:
        the warning, for the report; None where there is no ground for one.
    """
    if len(seen.features) < FEWEST:
        return None
    alike = int(too_alike(seen.features, seen.values, torch.from_numpy(groups)).sum())
    text = "look to the model nearly like another one, such as crops and flips of one photograph do"
    return _warn(alike, len(seen.features), text)


def _warn(found: int, examples: int, what: str) -> str | None:
    if found < SHARE * examples:
        return None
    text = (
        f"{found} of {examples} calibration examples looked at {what}. The certified bound holds "
        "for independent examples only: pass groups= (one label per example) to split and certify "
        "by what belongs together"
    )
    warn_caller(f"{text}.")
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


def too_alike(features: Tensor, values: Tensor, groups: Tensor) -> Tensor:
    """Which examples have one of another group that is much more alike than expected, in its
    features and in the distribution of its values.

    Args:
        features: (examples, features) float32.
        values: (examples, quantiles) float32.
        groups: (examples,) int64.

    Returns:
        (examples,) bool.
    """
    near, far = max(len(features) // NEAR, 2), max(len(features) // FAR, 4)
    unit = functional.normalize(features - features.mean(0), dim=1)
    distances, nearer = list[Tensor](), list[Tensor]()
    for part in torch.arange(len(features)).split(BLOCK):
        own = groups[part, None] == groups
        apart = (2 - 2 * unit[part] @ unit.mT).clamp(min=0).sqrt().masked_fill_(own, torch.inf)
        ranked = apart.topk(far, largest=False)
        distances.append(ranked.values[:, [0, near - 1, far - 1]])
        apart = torch.cdist(values[part], values).masked_fill_(own, torch.inf)
        nearer.append((apart < apart.gather(1, ranked.indices[:, :1])).float().mean(1))
    nearest, r, big = torch.cat(distances).unbind(1)
    known = big.isfinite() & (r > 0) & (torch.cat(nearer) < SIMILAR)
    if not known.any():
        return known
    spread = float((big / r)[big.isfinite() & (r > 0)].log().median())
    dimensions = math.log(far / near) / max(spread, 1e-9)
    share = min(ALIKE, CHANCE ** (1 / dimensions))
    alike: Tensor = known & (nearest < share * r * near ** (-1 / dimensions))
    return alike


def sample(examples: int, seed: int) -> np.ndarray:
    """Runs of neighbors, (examples,) bool: those that are looked at."""
    random = np.random.default_rng(seed)
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
