"""`fxprune.plan`: decide without handing a model over."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fxprune.calibrate.groups import Groups
from fxprune.calibrate.padding import Mask
from fxprune.options import DEFAULTS, Options, RoundTo
from fxprune.pipeline import plan_whole
from fxprune.plans.budget import make_budget
from fxprune.plans.methods import WIDTH_METHODS, find_method
from fxprune.plans.plan import Plan
from fxprune.timing.workload import Workload
from fxprune.verify.judge import Decision


def plan(
    model: nn.Module,
    calib_loader: Any,
    *,
    flops: float | None = None,
    params: float | None = None,
    agreement: float | None = None,
    latency: float | None = None,
    workload: Workload | None = None,
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
    checkpoint: str | os.PathLike[str] | None = DEFAULTS.checkpoint,
) -> Plan:
    """Decide which channels to keep; arguments and defaults as for `compress`.

    Under flops=, params= or latency= nothing is built but what candidates need to be tried; to
    certify an agreement (the default) every size that is tried is built. With checkpoint= a later
    `compress` with the same arguments goes on from there.

    Returns:
        the plan, for `apply`.
    """
    run: dict[str, Any] = {"seed": seed, "memory": memory, "effort": effort, "progress": progress}
    run |= {"round_to": round_to, "checkpoint": checkpoint, "device": device}
    options = Options(
        budget=make_budget(flops, params, agreement, latency),
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
        workload=DEFAULTS.workload if workload is None else workload,
        **run,
    )
    return plan_whole(model, calib_loader, options)
