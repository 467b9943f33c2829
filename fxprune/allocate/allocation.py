"""The plan under limits, by the session's method: channels, ranks, or both under one budget."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from fxprune.allocate.paper import iterative_widths
from fxprune.allocate.problem import Candidate, Problem, pose
from fxprune.allocate.ranks import choose_ranks
from fxprune.allocate.search import Search
from fxprune.allocate.widths import Widths, scale_widths, within_limits
from fxprune.errors import BudgetError
from fxprune.label.keep import keep_all
from fxprune.plans.plan import Plan, make_plan
from fxprune.session import Session
from fxprune.timing.latency_target import MeasuredWidths, meet_latency

COMPOUNDING = 2.0
"""Error of a model over the sum of what each of several groups does to it alone, typically; layers
of lower rank add up (docs/decisions/0011).
"""


@dataclass(frozen=True)
class Allocation:
    """What was decided.

    Attributes:
        plan: names and integers.
        keep_mask: (channels + 1,) bool of the plan's channels in the session's analysis.
        errors: predicted, by group and by factored weight.
        session: whose graph the plan speaks of: the one that was asked, or that with rotated
            channels.
    """

    plan: Plan
    keep_mask: np.ndarray
    errors: Mapping[str, float]
    session: Session


@dataclass(frozen=True)
class Decided:
    """An allocation as it is kept.

    Attributes:
        plan: as JSON.
        keep_mask, errors: as in `Allocation`.
        rotated: whether it is of the session with rotated channels.
        streams: whether it is of that with rotated streams.
    """

    plan: str
    keep_mask: np.ndarray
    errors: dict[str, float]
    rotated: bool
    streams: bool


def allocate(session: Session, limits: Mapping[str, float]) -> Allocation:
    """As `decide`, once however often a run goes on; logs what was decided."""

    def decided() -> Decided:
        found = decide(session, limits)
        rotated, streams = found.session is not session, bool(found.session.statistics.centered)
        return Decided(found.plan.to_json(), found.keep_mask, dict(found.errors), rotated, streams)

    kept = session.journal.step("allocation", limits.items(), Decided, decided)
    turned = session.with_streams if kept.streams else session.rotated if kept.rotated else None
    own = turned if kept.rotated else session
    assert own is not None
    found = Allocation(Plan.from_json(kept.plan), kept.keep_mask, kept.errors, own)
    _tell(session, found, limits)
    return found


def _tell(session: Session, allocation: Allocation, limits: Mapping[str, float]) -> None:
    """Log what was decided."""
    widths, groups = allocation.plan.widths, session.analysis.groups
    session.journal.decide(
        "%s within %s: %d of %d groups lose channels, %d layers become two; error %.1e predicted",
        allocation.plan.method,
        ", ".join(f"{name}={limit:g}" for name, limit in limits.items()) or "no limit",
        sum(widths[group.name] < group.width for group in groups),
        len(groups),
        len(allocation.plan.factorings),
        sum(allocation.errors.values()),
    )
    for group in groups:
        values = group.name, widths[group.name], group.width
        session.journal.detail("%s keeps %d of %d channels", *values)
    for name, how in allocation.plan.factorings.items():
        session.journal.detail("%s becomes two of rank %d", name, how.rank)


def decide(session: Session, limits: Mapping[str, float]) -> Allocation:
    """Decide what stays, by the session's method and selector.

    Args:
        session: what was captured and observed.
        limits: fractions of the original to keep at most: `flops`, `params`, `latency`.

    Raises:
        BudgetError: the limits cannot be kept; names the closest in reach.
    """
    options = session.options
    settings: dict[str, object] = {
        "seed": options.seed,
        "round_to": session.multiple if isinstance(session.multiple, int) else "auto",
        **limits,
    }
    if options.method.widths:
        settings["selector"] = options.chosen_selector
        problem, chosen = choose_candidate(pose(session, limits))
        session = problem.session
        keep_mask = problem.keep_mask(chosen.widths)
        ranks, errors = chosen.ranks, dict(chosen.rank_errors)
        errors |= _errors_of_groups(problem, chosen.widths)
        if chosen.measured is not None:
            settings["measured"] = (
                f"{chosen.measured:.3f} of the original's time, {options.workload}"
            )
    else:
        if "latency" in limits:
            raise BudgetError(
                f"latency= is not known for ranks: method={options.method.name!r} takes flops= "
                "and params=."
            )
        keep_mask = keep_all(session.analysis)
        ranks, errors = choose_ranks(session, options.method.ranks, keep_mask, limits)
    state = dict(session.graph.named_parameters()) | dict(session.graph.named_buffers())
    plan = make_plan(
        session.analysis,
        keep_mask,
        state,
        options.method.name,
        settings,
        ranks,
        session.statistics.rotations,
        session.norms.folded,
        session.norms.maps,
    )
    return Allocation(plan, keep_mask, errors, session)


def _errors_of_groups(problem: Problem, widths: np.ndarray) -> dict[str, float]:
    groups = problem.session.analysis.groups
    compounding = COMPOUNDING if len(groups) > 1 else 1.0
    return {
        group.name: compounding * float(profile.errors[group.width - int(width)])
        for group, profile, width in zip(groups, problem.profiles, widths, strict=True)
    }


def choose_candidate(problem: Problem) -> tuple[Problem, Candidate]:
    """Widths and ranks under the problem's limits, and the problem they solve: the one that was
    asked, or one with rotated channels or with narrower streams.

    Groups that are normalized (residual streams) keep their width where the limits can be kept
    without them: only the search narrows them too, where the trials say so (docs/decisions/0020).
    """
    streams = problem.session.analysis.normalized
    if not streams:
        return _choose(problem)
    try:
        return _choose(problem.whole(streams))
    except BudgetError:
        return _choose(problem)


def _choose(problem: Problem) -> tuple[Problem, Candidate]:
    if "latency" in problem.limits:
        return _timed(problem)
    return ALLOCATIONS[problem.session.options.method.allocation](problem)


def _searched(problem: Problem) -> tuple[Problem, Candidate]:
    """The best of a few candidates that are tried; those with rotated channels, and those with
    narrower streams, where they err less.

    These are tried after, and beside, what would be tried without them, so that the plan without is
    never lost.
    """
    session = problem.session
    if problem.solved:
        return _uniform(problem)
    ranked = bool(session.options.method.ranks)
    if ranked and session.options.timed:
        session.journal.note(
            "layers stay whole: two thin ones in place of one were not found to save time"
        )
    ranked = ranked and not session.options.timed
    search = Search(problem, ranked)
    error, candidate = search.best()
    for widen in (rotated_problem, _with_narrower_streams, _with_rotated_streams):
        wider = widen(problem)
        if wider is not None:
            further = Search(wider, ranked, search if wider.session is problem.session else None)
            other, found = further.best()
            if other < error:
                search, problem, error, candidate = further, wider, other, found
    return problem, candidate


def rotated_problem(problem: Problem) -> Problem | None:
    """The same problem on the network with rotated channels; None where nothing is rotated."""
    session = problem.session
    turned = session.rotated if session.may_rotate else None
    if turned is None:
        return None
    rotated, streams = pose(turned, problem.limits), session.analysis.normalized
    return rotated.whole(streams) if problem.keeps(streams) else rotated


def _with_narrower_streams(problem: Problem) -> Problem | None:
    """The same problem with streams that may go too; None where none could."""
    streams = problem.session.analysis.normalized
    wider = pose(problem.session, problem.limits)
    tries = streams and problem.session.options.effort > 1 and problem.keeps(streams)
    return wider if tries and not wider.keeps(streams) else None


def _with_rotated_streams(problem: Problem) -> Problem | None:
    """The same problem with streams in new coordinates, of which some may go; None where there are
    none, or where the maps that they need cost more than the limits leave.
    """
    session = problem.session.unrotated or problem.session
    turned = session.with_streams if session.may_rotate_streams else None
    posed = None if turned is None else pose(turned, problem.limits)
    if posed is None or not within_limits(posed.costs, posed.valid.smallest, posed.limits):
        return None
    return posed


def _uniform(problem: Problem) -> tuple[Problem, Candidate]:
    with problem.session.journal.station("allocate"):
        return problem, Candidate(problem.uniform())


def _iterative(problem: Problem) -> tuple[Problem, Candidate]:
    with problem.session.journal.station("allocate"):
        return problem, Candidate(
            iterative_widths(problem.profiles, problem.costs, problem.valid, problem.limits)
        )


ALLOCATIONS: Mapping[str, Callable[[Problem], tuple[Problem, Candidate]]] = {
    "search": _searched,
    "iterative": _iterative,
    "uniform": _uniform,
}
"""By the name that `Method.allocation` holds."""


def _timed(problem: Problem) -> tuple[Problem, Candidate]:
    """Widths whose rewritten graph was measured.

    Uniform ones correct the cost model first, so that the candidates tried are of the right size.
    """
    session, costs = problem.session, problem.costs
    target = problem.limits["latency"]

    def closed(valid: Widths, shape: np.ndarray, start: float | None) -> MeasuredWidths:
        with session.journal.station("measure"):
            return meet_latency(
                session.measure,
                target,
                valid.smallest,
                lambda widths: costs.fractions(widths)["latency"],
                lambda limit: scale_widths(
                    shape, costs, valid, {**problem.limits, "latency": limit}
                ),
                session.options.workload,
                start,
            )

    valid = problem.valid
    found = closed(valid, np.ones(len(valid.full)), None)
    name = session.options.method.allocation
    if name != "uniform":
        problem, chosen = ALLOCATIONS[name](problem.within(latency=found.limit))
        valid = problem.valid
        found = closed(valid, chosen.widths / valid.full, found.limit)
    return problem, replace(Candidate(found.widths), measured=found.measured)
