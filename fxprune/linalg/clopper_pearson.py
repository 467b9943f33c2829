"""Bounds on an agreement rate from a held-out sample."""

from scipy.stats import beta


def lower_bound(agreeing: int, examples: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson lower bound of a proportion (Clopper & Pearson 1934).

    Args:
        agreeing: examples with the same decision.
        examples: examples compared.
        confidence: probability that the bound holds.
    """
    if agreeing == 0 or examples == 0:
        return 0.0
    return float(beta.ppf(1 - confidence, agreeing, examples - agreeing + 1))
