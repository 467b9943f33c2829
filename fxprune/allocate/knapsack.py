"""One choice per layer under several limits, with the least sum or maximum of errors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fxprune.errors import BudgetError
from fxprune.plans.factoring import Factoring


@dataclass(frozen=True)
class Choices:
    """What may become of one layer; the first choice is to leave it alone, at no error.

    Attributes:
        weight: the layer's name.
        factorings: one per further choice.
        costs: (choices, limits), as fractions of the original model.
        errors: (choices,), zero for the first.
    """

    weight: str
    factorings: tuple[Factoring, ...]
    costs: np.ndarray
    errors: np.ndarray


def allocate_choices(
    offered: Sequence[Choices], fixed: np.ndarray, bounds: Mapping[str, float], minimax: bool
) -> dict[str, Factoring]:
    """The choices with the smallest sum, or the smallest maximum, of errors that keep every limit;
    layers left alone do not appear.

    The sum is minimized for a price of cost that is bisected, as in learned-rank compression
    (Idelbayev & Carreira-Perpinan, CVPR 2020). The maximum needs no restarts from random encoders,
    as the reference implementation of ALDS makes them: at a given maximum the cheapest choices of
    different layers do not depend on each other.

    Args:
        offered: per layer.
        fixed: (limits,) cost of everything else.
        bounds: the limits.
        minimax: whether the largest error counts, not the sum.

    Raises:
        BudgetError: not even the cheapest choices keep the limits.
    """
    limits = np.array(list(bounds.values()))

    def spent(picks: Sequence[int]) -> np.ndarray:
        return fixed + sum(
            (c.costs[i] for c, i in zip(offered, picks, strict=True)), np.zeros(len(limits))
        )

    def fits(picks: Sequence[int]) -> bool:
        return bool((spent(picks) <= limits + 1e-9).all())

    alone = [0] * len(offered)
    if fits(alone):
        return {}
    # One limit may bind while another has room: each is priced alone, and all together.
    mixes = np.unique(np.vstack([np.eye(len(limits)), np.ones(len(limits))]), axis=0)
    priced = [[(c.costs / limits) @ mix for c in offered] for mix in mixes]
    frugal = [[int(np.argmin(cost)) for cost in costs] for costs in priced]
    cheapest = next((picks for picks in frugal if fits(picks)), frugal[-1])
    if not fits(cheapest):
        asked = ", ".join(f"{k}={v:g}" for k, v in bounds.items())
        closest = ", ".join(f"{k}={v:.3f}" for k, v in zip(bounds, spent(cheapest), strict=True))
        raise BudgetError(
            f"The budget {asked} cannot be reached by factoring: with rank 1 wherever that pays "
            f"the model keeps {closest}. The rest lies in "
            "layers that cannot be factored; fxprune.compress removes channels."
        )
    merit = max if minimax else sum
    found = [cheapest]
    for costs in priced:
        picks = _bisect(lambda at, costs=costs: _pick(offered, costs, at, minimax), fits)  # type: ignore[misc]
        found.append(_fill(offered, costs, picks, fits) if picks else cheapest)
    best = min(
        found,
        key=lambda picks: merit(float(c.errors[i]) for c, i in zip(offered, picks, strict=True)),
    )
    return {c.weight: c.factorings[i - 1] for c, i in zip(offered, best, strict=True) if i}


def _pick(
    offered: Sequence[Choices], costs: Sequence[np.ndarray], at: float, minimax: bool
) -> list[int]:
    """Per layer the best choice at a price, or the cheapest below a maximum error."""
    if minimax:
        return [
            int(np.argmin(np.where(c.errors <= at, cost, np.inf)))
            for c, cost in zip(offered, costs, strict=True)
        ]
    return [int(np.argmin(c.errors + at * cost)) for c, cost in zip(offered, costs, strict=True)]


def _bisect(
    pick: Callable[[float], list[int]], fits: Callable[[Sequence[int]], bool]
) -> list[int] | None:
    """The picks at the smallest parameter between 1e-12 and 1e12 that fit; larger ones are cheaper
    and err more.
    """
    low, high, best = -12.0, 12.0, None
    for _ in range(40):
        middle = (low + high) / 2
        picks = pick(10.0**middle)
        if fits(picks):
            best, high = picks, middle
        else:
            low = middle
    return best


def _fill(
    offered: Sequence[Choices],
    costs: Sequence[np.ndarray],
    picks: list[int],
    fits: Callable[[Sequence[int]], bool],
) -> list[int]:
    """Spend what is left over where it lowers the error most."""
    open_layers = set(range(len(offered)))
    while open_layers:
        best, gain = None, 0.0
        for i in sorted(open_layers):
            here, found = picks[i], None
            better = np.flatnonzero(
                (offered[i].errors < offered[i].errors[here]) & (costs[i] > costs[i][here])
            )
            for j in better[np.argsort(costs[i][better])]:
                if fits([*picks[:i], int(j), *picks[i + 1 :]]):
                    found = int(j)
                break
            if found is None:
                open_layers.discard(i)
            elif offered[i].errors[here] - offered[i].errors[found] > gain:
                best, gain = (i, found), float(offered[i].errors[here] - offered[i].errors[found])
        if best is None:
            break
        picks = [*picks[: best[0]], best[1], *picks[best[0] + 1 :]]
    return picks
