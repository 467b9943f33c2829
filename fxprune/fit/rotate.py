"""A plan's rotations on another checkpoint, or other examples."""

from fxprune.errors import PlanError
from fxprune.plans.plan import Plan
from fxprune.profile.bases import NOT_A_LAYER
from fxprune.session import Session

ANEW = (
    "the coordinates of rotated channels were found anew, from this model and these examples: the "
    "plan says how many stay of {names}"
)


def rotate_as_planned(session: Session, plan: Plan) -> Session:
    """The session with the plan's channel groups in new coordinates, found from its own examples: a
    plan holds how many of them stay, not the coordinates (docs/decisions/0021).

    Raises:
        PlanError: a group of the plan's cannot be rotated here; says why.
    """
    if not plan.rotations:
        return session
    turned = session.rotate(plan.rotations)
    found = {} if turned is None else turned.statistics.rotations
    for name in plan.rotations:
        if name not in found:
            reason = session.statistics.marked.unmixed.get(name, NOT_A_LAYER)
            raise PlanError(
                f"The plan keeps rotated channels of {name}; in this model they cannot be rotated: "
                f"{reason}. Make a plan of this model with fxprune.plan(...)."
            )
    assert turned is not None
    changed = [n for n, rotation in found.items() if rotation.digest != plan.rotations[n].digest]
    if changed:
        session.journal.note(ANEW.format(names=", ".join(changed)))
    return turned
