"""Bounds on an agreement rate from a held-out sample."""


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
