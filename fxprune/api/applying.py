"""`fxprune.apply`: build what a plan says."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from fxprune.allocate.allocation import Allocation
from fxprune.allocate.expected_cost import expect_build
from fxprune.calibrate.groups import Groups
from fxprune.calibrate.padding import Mask
from fxprune.capture.undisturbed import undisturbed
from fxprune.distributed.together import together
from fxprune.errors import PlanError
from fxprune.fit.build import build
from fxprune.fit.factor import require_layers
from fxprune.fit.rotate import planned_analysis, rotate_as_planned
from fxprune.handover.finish import hand_over
from fxprune.intake import open_journal
from fxprune.label.ties import tie
from fxprune.options import DEFAULTS, Options
from fxprune.pipeline import verify, warn_of_few
from fxprune.plans.budget import Budget
from fxprune.plans.methods import method_of_plan
from fxprune.plans.plan import TIED, Plan, keep_mask_of
from fxprune.session import open_session
from fxprune.verify.judge import Decision

LIMITS = ("flops", "params")
"""Settings of a plan that say how much of the original it keeps."""


def apply(
    model: nn.Module,
    plan: Plan,
    calib_loader: Any,
    *,
    groups: Groups | None = DEFAULTS.groups,
    example: Any = DEFAULTS.example,
    dynamic_shapes: Any = DEFAULTS.dynamic_shapes,
    mask: Mask = DEFAULTS.mask,
    decision: Decision = DEFAULTS.decision,
    progress: bool = DEFAULTS.progress,
    seed: int = DEFAULTS.seed,
    memory: float = DEFAULTS.memory,
    device: str | torch.device | None = DEFAULTS.device,
) -> GraphModule:
    """Compress a model by a plan made earlier, on this or another checkpoint of its architecture.

    Args:
        model: never modified.
        plan: from `plan`, `plan_of` or `Plan.from_json`.
        calib_loader: unlabeled examples the remaining weights are fitted on.
        groups, example, dynamic_shapes, mask, decision, progress, seed, memory, device: as
            for `compress`.

    Returns:
        as `compress`.

    Raises:
        PlanError: the plan does not fit the model.
    """
    if not isinstance(plan, Plan):
        raise PlanError(
            f"The plan is a {type(plan).__name__}. Pass what fxprune.plan, fxprune.plan_of or "
            "fxprune.Plan.from_json returned."
        )
    options = Options(
        budget=Budget(flops=1.0),
        method=method_of_plan(plan.method),
        groups=groups,
        example=example,
        dynamic_shapes=dynamic_shapes,
        mask=mask,
        decision=decision,
        progress=progress,
        seed=seed,
        memory=memory,
        device=device,
    )
    with together(), undisturbed(model, seed), open_journal(options) as journal:
        session = open_session(model, calib_loader, options, journal, bool(plan.kept))
        session = replace(session, for_maps=math.inf if plan.maps else 0.0)
        if plan.kept and plan.settings.get(TIED):
            session = session.with_analysis(tie(session.analysis, plan.settings[TIED]))
        keep_mask = keep_mask_of(planned_analysis(session, plan), plan)
        require_layers(session, plan)
        session.settle_decision()
        journal.foresee(expect_build(session, _limits(plan)))
        turned = rotate_as_planned(session, plan)
        folded = dict(turned.norms.folded)
        plan = replace(plan, rotations=turned.statistics.rotations, folded=folded)
        small = build(turned, keep_mask, plan.factorings)
        allocation = Allocation(plan, keep_mask, {}, turned)
        small = hand_over(turned, small, allocation, verify(session, small))
        warn_of_few(small)
    return small


def _limits(plan: Plan) -> dict[str, float]:
    """What a plan was decided under, as far as its settings say."""
    told = {name: plan.settings.get(name) for name in LIMITS}
    return {k: v for k, v in told.items() if isinstance(v, (int, float)) and 0 < v <= 1}
