"""Bounds on a rate from examples that belong together, on draws whose true rate is known."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, binom
from scipy.stats import t as student

from fxprune.linalg.clopper_pearson import lower_bound

CONFIDENCE, CERTAIN = 0.95, 0.999
"""Of the bound; and how sure a row must be before it counts as a failure."""
AGREEMENT = 0.97
"""The true one, where bounds are compared."""


@dataclass(frozen=True)
class Found:
    """How it went.

    Attributes:
        held, runs: how often the bound held, of how many.
        bound: its mean.
    """

    held: int
    runs: int
    bound: float

    @property
    def sound(self) -> bool:
        """Whether no more bounds failed than 5 % and chance."""
        return bool(self.runs - self.held <= binom.ppf(CERTAIN, self.runs, 1 - CONFIDENCE))


def rates(
    agreement: float, correlation: float, groups: int, random: np.random.Generator
) -> np.ndarray:
    """(groups,) how often each scene is decided wrongly; beta, so that decisions correlate."""
    wrong = 1 - agreement
    if correlation in (0, 1):
        return (random.random(groups) < wrong) * 1.0 if correlation else np.full(groups, wrong)
    spread = 1 / correlation - 1
    return random.beta(wrong * spread, (1 - wrong) * spread, groups)


def korn_graubard(agreeing: np.ndarray, sizes: np.ndarray) -> float:
    """Clopper-Pearson with the design effect estimated (Korn & Graubard 1998); without a
    disagreement the groups count.
    """
    groups, total = len(sizes), sizes.sum()
    rate = agreeing.sum() / total
    if rate in (0, 1):
        return lower_bound(groups if rate else 0, groups)
    variance = groups / (groups - 1) * np.square(agreeing - rate * sizes).sum() / total**2
    few = student.ppf(0.05, total - 1) / student.ppf(0.05, groups - 1)
    count = min(total, rate * (1 - rate) / max(variance, 1e-30) * few**2)
    return float(beta.ppf(1 - CONFIDENCE, rate * count, count - rate * count + 1))


def bootstrap(agreeing: np.ndarray, sizes: np.ndarray) -> float:
    """The 5 % quantile over draws of groups with replacement."""
    drawn = np.random.default_rng(0).integers(0, len(sizes), (200, len(sizes)))
    return float(np.quantile(agreeing[drawn].sum(1) / sizes[drawn].sum(1), 1 - CONFIDENCE))


def kish(agreeing: np.ndarray, sizes: np.ndarray) -> float:
    """Clopper-Pearson over groups: what fxprune does."""
    total = int(sizes.sum())
    count = total**2 / np.square(sizes).sum()
    return lower_bound(int(agreeing.sum()), total, independent=float(count))


BOUNDS = {"Korn-Graubard": korn_graubard, "cluster bootstrap": bootstrap, "over groups": kish}


def compared(groups: int, each: int, correlation: float, runs: int) -> dict[str, Found]:
    """The candidates' bounds on the same draws of scenes of unequal sizes, 97 % agreement."""
    random = np.random.default_rng(0)
    bounds: dict[str, list[float]] = {name: [] for name in BOUNDS}
    for _ in range(runs):
        sizes = random.poisson(each - 1, groups) + 1
        agreeing = sizes - random.binomial(sizes, rates(AGREEMENT, correlation, groups, random))
        for name, bound in BOUNDS.items():
            bounds[name].append(bound(agreeing, sizes))
    return {
        name: Found(int((np.array(b) <= AGREEMENT).sum()), runs, float(np.mean(b)))
        for name, b in bounds.items()
    }
