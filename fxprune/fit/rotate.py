"""A plan's rotations on another checkpoint, or other examples."""

from fxprune.errors import PlanError
from fxprune.label.groups import Analysis
from fxprune.plans.plan import Plan
from fxprune.profile.bases import NOT_A_LAYER
from fxprune.session import Session

ANEW = (
    "the coordinates of rotated channels were found anew, from this model and these examples: the "
    "plan says how many stay of {names}"
)


def planned_analysis(session: Session, plan: Plan) -> Analysis:
    """The analysis of the graph that a plan speaks of, before anything is observed.

    Raises:
        PlanError: a stream of the plan's cannot be rotated here; says why.
    """
    if not plan.streams:
        return session.analysis
    found = session.streams
    for name in plan.streams:
        if name not in found.centered:
            raise _unrotated(name, found.reasons.get(name, "it is normalized by nothing"))
    assert found.analysis is not None
    return found.analysis


def rotate_as_planned(session: Session, plan: Plan) -> Session:
    """The session with the plan's channel groups in new coordinates, found from its own examples: a
    plan holds how many of them stay, not the coordinates (docs/decisions/0021).

    Raises:
        PlanError: a group of the plan's cannot be rotated here; says why.
    """
    if not plan.rotations:
        return session
    rotate = session.rotate_streams if plan.streams else session.rotate
    turned = rotate(plan.rotations)
    found = {} if turned is None else turned.statistics.rotations
    for name in plan.rotations:
        if name not in found:
            marked = planned_analysis(session, plan) if plan.streams else session.statistics.marked
            raise _unrotated(name, marked.unmixed.get(name, NOT_A_LAYER))
    assert turned is not None
    changed = [n for n, rotation in found.items() if rotation.digest != plan.rotations[n].digest]
    if changed:
        session.journal.note(ANEW.format(names=", ".join(changed)))
    return turned


def _unrotated(name: str, reason: str) -> PlanError:
    return PlanError(
        f"The plan keeps rotated channels of {name}; in this model they cannot be rotated: "
        f"{reason}. Make a plan of this model with fxprune.plan(...)."
    )
