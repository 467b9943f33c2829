"""Bounds on an agreement rate from a held-out sample."""

import math

from fxprune.linalg.first_enough import first_enough


def lower_bound(
    agreeing: int, examples: int, confidence: float = 0.95, independent: float | None = None
) -> float:
    """One-sided Clopper-Pearson lower bound of a proportion (Clopper & Pearson 1934).

    Of examples that belong together it is the bound that as many independent ones would give: the
    rates within groups lie in [0, 1], and a sum of such is never spread wider than a binomial
    (Hoeffding 1956; docs/decisions/0015).

    Args:
        agreeing: examples with the same decision.
        examples: examples compared.
        confidence: probability that the bound holds.
        independent: for how many independent examples these count; for all by default.
    """
    if agreeing == 0 or examples == 0:
        return 0.0
    # Not scipy.stats.beta.ppf, the same to rounding: scipy.stats takes as long to import as torch.
    from scipy.special import betaincinv

    weight = 1.0 if independent is None else min(independent / examples, 1.0)
    a, b = weight * agreeing, weight * (examples - agreeing) + 1
    return float(betaincinv(a, b, 1 - confidence))


def interval(
    agreeing: int, examples: int, confidence: float = 0.95, independent: float | None = None
) -> tuple[float, float]:
    """Two-sided Clopper-Pearson interval of a proportion; arguments as for `lower_bound`."""
    one_sided = (1 + confidence) / 2
    low = lower_bound(agreeing, examples, one_sided, independent)
    return low, 1 - lower_bound(examples - agreeing, examples, one_sided, independent)


def sample_size(rate: float, bound: float, confidence: float = 0.95) -> int | None:
    """How many examples have a `lower_bound` of at least `bound` where a rate stays.

    Args:
        rate: share of examples with the same decision, rounded down to whole ones.
        bound: to reach.
        confidence: probability that it holds.

    Returns:
        the number; None where the rate is not above the bound, which no number reaches then.
    """
    if rate <= bound:
        return None

    def enough(examples: int) -> bool:
        differing = math.ceil((1 - rate) * examples - 1e-9)
        return lower_bound(examples - differing, examples, confidence) >= bound

    return first_enough(enough)
