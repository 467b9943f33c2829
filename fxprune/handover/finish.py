"""Stations 7 and 8: verify on held-out examples, certify, lift the layers back, attach the
report.
"""

import resource
import sys

from torch import nn
from torch.fx import GraphModule

from fxprune.allocate.planning import planned
from fxprune.allocate.ranks import METHODS
from fxprune.errors import BudgetError
from fxprune.fit.build import build, verify
from fxprune.fit.factor import left_alone
from fxprune.handover.report import Report, attach
from fxprune.handover.rows import AloneRow, GroupRow
from fxprune.label.analysis import attribute
from fxprune.label.flops import count_flops
from fxprune.passes import LiftModules
from fxprune.plans.budget import Budget
from fxprune.plans.factoring import Factoring, names
from fxprune.plans.plan import Plan, reduced_shape
from fxprune.session import Session
from fxprune.verify.agreement import Agreement

SEQUENCE = (1.0, 0.98, 0.96, 0.94, 0.92, *(round(0.9 - 0.05 * i, 2) for i in range(18)))
"""FLOPs fractions that are certified in this order, largest first, until one fails."""


def _bytes(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


def _factored_row(
    name: str, how: Factoring, session: Session, plan: Plan, error: float
) -> GroupRow:
    """Channels between two layers, before at the rank at which nothing is lost."""
    shape = reduced_shape(name, tuple(attribute(session.graph, name).shape), plan)
    first, second = names(name)
    blocks = how.groups * how.encoders
    return GroupRow(
        f"{name} as two layers",
        (f"{first}[0]", f"{second}[1]"),
        how.largest(shape) * blocks,
        how.rank * blocks,
        error,
    )


def hand_over(
    session: Session,
    small: GraphModule,
    plan: Plan,
    errors: dict[str, float],
    agreement: Agreement | None,
) -> GraphModule:
    """Lift the calls into layers and attach the report."""
    graph, example = session.graph, session.captured.example
    with session.station("hand over"):
        flops = (count_flops(graph, example), count_flops(small, example))
        small = LiftModules()(small)
        small.eval()
    analysis = session.analysis
    measured = (
        [f"measured latency: {plan.settings['measured']}"] if "measured" in plan.settings else []
    )
    rows = tuple(
        GroupRow(
            g.name,
            tuple(f"{p}[{a}]" for p, a in g.members),
            g.channels,
            plan.widths[g.name] * len(g.blocks),
            errors.get(g.name, 0.0),
        )
        for g in analysis.groups
    ) + tuple(
        _factored_row(name, how, session, plan, errors.get(name, 0.0))
        for name, how in plan.factorings.items()
    )
    alone = (
        tuple(AloneRow(f"{p.parameter}[{p.axis}]", p.size, p.reason) for p in analysis.pinned)
        + tuple(
            AloneRow(r.name, r.before, "the budget was met without it")
            for r in rows
            if r.before == r.after
        )
        + (tuple(left_alone(session, plan)) if plan.method in METHODS else ())
    )
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    sizes = tuple(sum(p.numel() for p in m.parameters()) for m in (graph, small))
    attach(
        small,
        Report(
            flops,
            (sizes[0], sizes[1]),
            (_bytes(graph), _bytes(small)),
            agreement,
            rows,
            alone,
            dict(session.seconds),
            peak,
            (*session.notes, *measured),
            plan.method,
        ),
        plan,
    )
    return small


def finished(session: Session, method: str, selector: str, limits: dict[str, float]) -> GraphModule:
    """Plan, build, verify and hand over under cost limits."""
    made, keep_mask, errors = planned(session, method, selector, limits)
    small = build(session, keep_mask, method, made.factorings)
    return hand_over(session, small, made, errors, verify(session, small))


def certified(session: Session, budget: Budget, method: str, selector: str) -> GraphModule:
    """The smallest model of a fixed sequence whose agreement is certified."""
    assert budget.agreement is not None
    best, stopped = None, ""
    for fraction in dict.fromkeys(min(f, budget.flops or 1.0) for f in SEQUENCE):
        limits = budget.limits | {"flops": fraction}
        try:
            made, keep_mask, errors = planned(session, method, selector, limits)
        except BudgetError:
            if best is None:
                raise
            stopped = f"no group can give more than FLOPs {fraction:g} asks"
            break
        small = build(session, keep_mask, method, made.factorings)
        found = verify(session, small)
        assert found is not None
        if found.bound < budget.agreement:
            stopped = (
                f"at FLOPs {fraction:g} the model agrees on {found.rate:.2%} of "
                f"{found.examples} held-out examples, which certifies {found.bound:.2%}"
            )
            break
        best = (small, made, errors, found)
    if best is None:
        raise BudgetError(
            f"agreement={budget.agreement:g} cannot be certified together with {budget.limits}: "
            f"{stopped} (closest reachable). Give more "
            "calibration examples, or ask for less."
        )
    if stopped:
        session.notes.append(f"the next smaller size could not be certified: {stopped}")
    return hand_over(session, *best)
