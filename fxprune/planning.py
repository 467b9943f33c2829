"""Station 5: the plan, by the method asked for: channels, ranks, or both under one budget."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from fxprune import allocate
from fxprune.construct import allocate_widths, surviving_channels, trial
from fxprune.errors import BudgetError
from fxprune.factoring import Factoring
from fxprune.layers import factorable
from fxprune.plan import Plan, make_plan
from fxprune.profile import Profile
from fxprune.ranks import METHODS, Choices, Network, allocate_ranks, choices
from fxprune.session import Session

STRETCHES = (1.5, 2.0, math.inf)
"""Budgets that channels are reduced to before ranks bring the model to the one asked for, as multiples of it; at most the original."""
GAIN = 0.7
"""A plan with ranks must err less than this share of what channels alone do: at equal FLOPs two layers take longer than one."""


def planned(session: Session, method: str, selector: str, limits: dict[str, float]) -> tuple[Plan, np.ndarray, dict[str, float]]:
    """The plan, (channels + 1,) bool of those that stay, and predicted errors by group and by factored weight.

    Raises:
        BudgetError: the limits cannot be kept.
    """
    errors: dict[str, float] = {}
    ranks: dict[str, Factoring] = {}
    settings: dict[str, object] = {
        "seed": session.seed, "round_to": session.round_to if isinstance(session.round_to, int) else "auto", **limits,
    }  # fmt: skip
    if "latency" in limits and (method in METHODS or method == "joint"):
        raise BudgetError(f"latency= is not known for ranks: method={method!r} takes flops= and params=.")
    if method in METHODS:
        alive = np.ones(len(session.analysis.group_of()), dtype=bool)
        ranks, errors = _ranks(session, method, alive, limits)
    else:
        profiles, widths = allocate_widths(session, method, selector, limits)
        if method == "joint":
            widths, ranks, errors = _with_ranks(session, profiles, widths, limits)
        alive = surviving_channels(session, profiles, widths)
        settings["selector"] = selector
        errors |= {g.name: float(p.errors[g.width - int(w)]) for g, p, w in zip(session.analysis.groups, profiles, widths, strict=True)}
    if "latency" in limits:
        settings["measured"] = f"{session.latency:.3f} of the original's time, {session.workload}"
    state = dict(session.graph.named_parameters()) | dict(session.graph.named_buffers())
    return make_plan(session.analysis, alive, state, method, settings, ranks), alive, errors


def _ranks(session: Session, method: str, alive: np.ndarray, limits: dict[str, float]) -> tuple[dict[str, Factoring], dict[str, float]]:
    """Ranks under the limits at given widths, and every factored layer's predicted error."""
    layers = factorable(session.graph, session.ignore)[0]
    multiple = session.round_to if isinstance(session.round_to, int) else max(session.round_to, default=1)
    network = Network(session.graph, session.analysis, alive, layers, limits, multiple)
    spreads = session.spreads() if method == "pca" else {}
    with session.station("allocate"):
        offered: list[Choices] = choices(network, method, spreads)
        ranks = allocate_ranks(network, offered, minimax=method == "alds")
    return ranks, {c.weight: float(c.errors[1 + c.factorings.index(ranks[c.weight])]) for c in offered if c.weight in ranks}


Option = tuple[np.ndarray, dict[str, Factoring], dict[str, float]]


def _with_ranks(session: Session, profiles: Sequence[Profile], widths: np.ndarray, limits: dict[str, float]) -> Option:
    """Widths, ranks and the factored layers' errors of the plan that errs least on examples it is not fitted on.

    Channels alone are always among them, and stay unless ranks are clearly better.
    """
    alone: Option = (widths, {}, {})
    further = list(_candidates(session, profiles, widths, limits))
    if not further:
        return alone
    bar = GAIN * trial(session, surviving_channels(session, profiles, widths))
    tried = [trial(session, surviving_channels(session, profiles, wider), ranks) for wider, ranks, _ in further]
    best = int(np.argmin(tried))
    return further[best] if tried[best] < bar else alone


def _candidates(session: Session, profiles: Sequence[Profile], widths: np.ndarray, limits: dict[str, float]) -> Iterator[Option]:
    """The widths scaled up to looser budgets, with ranks that bring them back to the limits."""
    costs = session.costs(limits)
    valid = allocate.Widths(session.analysis.groups, profiles, session.round_to, session.floor)
    seen = {tuple(widths)}
    for stretch in STRETCHES:
        wider = allocate.scaled(widths / valid.full, costs, valid, {name: min(stretch * limit, 1.0) for name, limit in limits.items()})
        if tuple(wider) in seen:
            continue
        seen.add(tuple(wider))
        try:
            ranks, errors = _ranks(session, "pca", surviving_channels(session, profiles, wider), limits)
        except BudgetError:
            continue
        if ranks:
            yield wider, ranks, errors
