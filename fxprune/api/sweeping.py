"""`fxprune.sweep`: a whole trade-off curve from one calibration."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from fxprune.allocate.expected_cost import expect_cost
from fxprune.calibrate.groups import Groups
from fxprune.calibrate.padding import Mask
from fxprune.capture.undisturbed import undisturbed
from fxprune.distributed.together import together
from fxprune.handover.report import note_curve
from fxprune.intake import open_journal
from fxprune.options import DEFAULTS, Options, RoundTo
from fxprune.pipeline import compress_session
from fxprune.plans.budget import Budget, each_flops
from fxprune.plans.methods import WIDTH_METHODS, find_method
from fxprune.session import open_session
from fxprune.verify.judge import Decision

SHARED = (
    "what the budgets of a sweep share (capture, labels, calibration, profiles) is timed in the "
    "report of the first budget that needed it"
)


def sweep(
    model: nn.Module,
    calib_loader: Any,
    *,
    budgets: Sequence[float] = (0.9, 0.7, 0.5, 0.35),
    method: str = DEFAULTS.method.name,
    selector: str = DEFAULTS.selector,
    decision: Decision = DEFAULTS.decision,
    groups: Groups | None = DEFAULTS.groups,
    example: Any = DEFAULTS.example,
    dynamic_shapes: Any = DEFAULTS.dynamic_shapes,
    mask: Mask = DEFAULTS.mask,
    uniform_across: Sequence[str] | str = DEFAULTS.uniform_across,
    ignore: Sequence[str] | str = DEFAULTS.ignore,
    keep: Mapping[str, float] | None = DEFAULTS.keep,
    round_to: RoundTo | None = DEFAULTS.round_to,
    progress: bool = DEFAULTS.progress,
    seed: int = DEFAULTS.seed,
    memory: float = DEFAULTS.memory,
    device: str | torch.device | None = DEFAULTS.device,
    effort: int = DEFAULTS.effort,
) -> dict[float, GraphModule]:
    """A whole trade-off curve from one capture and one calibration; arguments as for `compress`.

    Args:
        budgets: fractions of the original's FLOPs to keep.

    Returns:
        the compressed model of every budget, each with its own report, whose times are its own:
            what all share is timed once, in the first.
    """
    checked = each_flops(budgets)
    run: dict[str, Any] = {"seed": seed, "memory": memory, "effort": effort, "progress": progress}
    options = Options(
        budget=next(iter(checked.values()), Budget(flops=1.0)),
        method=find_method(method, WIDTH_METHODS),
        selector=selector,
        decision=decision,
        groups=groups,
        example=example,
        dynamic_shapes=dynamic_shapes,
        mask=mask,
        uniform_across=uniform_across,
        ignore=ignore,
        keep=keep,
        round_to=round_to,
        device=device,
        **run,
    )
    return _sweep(model, calib_loader, options, checked)


def _sweep(
    model: nn.Module, loader: Any, options: Options, budgets: Mapping[float, Budget]
) -> dict[float, GraphModule]:
    with together(), undisturbed(model, options.seed), open_journal(options) as journal:
        session = open_session(model, loader, options, journal)
        journal.foresee(expect_cost(session, *(b.limits for b in budgets.values())))
        curve = {}
        for fraction, budget in budgets.items():
            journal.about = f"FLOPs {fraction:g}: "
            curve[fraction] = compress_session(session, budget.limits)
            session.journal.seconds.clear()
            session.journal.note(SHARED)
        note_curve(list(curve.values()))
        return curve
