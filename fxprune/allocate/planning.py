"""Station 5: the plan, by the method asked for: channels, ranks, or both under one budget."""

import numpy as np

from fxprune.allocate import widths as allocate
from fxprune.allocate.ranks import METHODS, planned_ranks
from fxprune.allocate.search import Candidate, Search
from fxprune.errors import BudgetError
from fxprune.fit.build import surviving_channels
from fxprune.plans.plan import Plan, make_plan
from fxprune.profile.costs import CostModel
from fxprune.profile.removal import Profile
from fxprune.session import Session
from fxprune.timing.latency_target import MeasuredWidths, meet_latency

STEP = 0.9
"""Share of a group's width that one step of the reference method keeps."""
BASELINES = ("paper", "paper-uniform", "magnitude")
"""Methods that know nothing of redundant channels."""
COMPOUNDING = 2.0
"""Error of a model over the sum of what each of several groups does to it alone, typically; layers
of lower rank add up (decision 11).
"""
SEARCHED = ("auto", "channels")


def planned(
    session: Session, method: str, selector: str, limits: dict[str, float]
) -> tuple[Plan, np.ndarray, dict[str, float]]:
    """The plan, (channels + 1,) bool of those that stay, and predicted errors by group and by
    factored weight.

    Raises:
        BudgetError: the limits cannot be kept.
    """
    settings: dict[str, object] = {
        "seed": session.seed,
        "round_to": session.round_to if isinstance(session.round_to, int) else "auto",
        **limits,
    }
    if method in METHODS:
        if "latency" in limits:
            raise BudgetError(
                f"latency= is not known for ranks: method={method!r} takes flops= and params=."
            )
        keep_mask = np.ones(len(session.analysis.group_of()), dtype=bool)
        ranks, errors = planned_ranks(session, method, keep_mask, limits)
    else:
        profiles, chosen = allocated(session, method, selector, limits)
        keep_mask = surviving_channels(session, profiles, chosen.widths)
        settings["selector"] = selector
        ranks, errors = dict(chosen.ranks), dict(chosen.errors)
        compounding = COMPOUNDING if len(session.analysis.groups) > 1 else 1.0
        errors |= {
            g.name: compounding * float(p.errors[g.width - int(w)])
            for g, p, w in zip(session.analysis.groups, profiles, chosen.widths, strict=True)
        }
    if "latency" in limits:
        settings["measured"] = f"{session.latency:.3f} of the original's time, {session.workload}"
    state = dict(session.graph.named_parameters()) | dict(session.graph.named_buffers())
    return make_plan(session.analysis, keep_mask, state, method, settings, ranks), keep_mask, errors


def allocated(
    session: Session, method: str, selector: str, limits: dict[str, float]
) -> tuple[list[Profile], Candidate]:
    """Every group's removal order, and widths and ranks by the method asked for."""
    profiles = session.profile(selector)
    if method in BASELINES:
        profiles = [Profile(p.order, p.errors, p.scores, 0) for p in profiles]
    valid = allocate.Widths(session.analysis.groups, profiles, session.round_to, session.floor)
    costs = session.costs(limits)
    choose = _timed if "latency" in limits else _chosen
    return profiles, choose(session, method, profiles, costs, valid, limits)


def _chosen(
    session: Session,
    method: str,
    profiles: list[Profile],
    costs: CostModel,
    valid: allocate.Widths,
    limits: dict[str, float],
) -> Candidate:
    """A plan under limits that the cost model knows."""
    if method in SEARCHED and not allocate.fits(costs, valid.largest, limits):
        timed = "latency" in limits or not isinstance(session.round_to, int)
        if method == "auto" and timed:
            session.note(
                "layers stay whole: two thin ones in place of one were not found to save time"
            )
        return Search(
            session, profiles, costs, valid, limits, method == "auto" and not timed
        ).best()
    with session.station("allocate"):
        if method == "paper":
            return Candidate(allocate.iterative(profiles, costs, valid, limits, STEP))
        return Candidate(allocate.uniform(costs, valid, limits))


def _timed(
    session: Session,
    method: str,
    profiles: list[Profile],
    costs: CostModel,
    valid: allocate.Widths,
    limits: dict[str, float],
) -> Candidate:
    """Widths whose rewritten graph was measured: uniform ones correct the cost model first, so
    that the plans tried are of the right size.
    """
    gauge = session.gauge
    assert gauge is not None

    def closed(shape: np.ndarray, start: float | None) -> MeasuredWidths:
        with session.station("measure"):
            return meet_latency(
                lambda widths: gauge.ratio_at(session.graph, session.analysis, widths),
                limits["latency"],
                valid.smallest,
                lambda widths: costs.fractions(widths)["latency"],
                lambda limit: allocate.scaled(shape, costs, valid, {**limits, "latency": limit}),
                gauge.workload,
                start,
            )

    found = closed(np.ones(len(valid.full)), None)
    if method in (*SEARCHED, "paper"):
        widths = _chosen(
            session, method, profiles, costs, valid, {**limits, "latency": found.limit}
        ).widths
        found = closed(widths / valid.full, found.limit)
    session.latency = found.measured
    return Candidate(found.widths)
