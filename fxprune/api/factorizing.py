"""`fxprune.factorize`: two smaller layers in place of one."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from fxprune.calibrate.groups import Groups
from fxprune.calibrate.padding import Mask
from fxprune.options import DEFAULTS, Options
from fxprune.pipeline import compress_whole
from fxprune.plans.budget import Budget
from fxprune.plans.methods import RANK_METHODS, find_method
from fxprune.verify.judge import Decision

HALF = 0.5
"""Share of the parameters that is kept where no budget is named."""


def factorize(
    model: nn.Module,
    calib_loader: Any,
    *,
    params: float | None = None,
    flops: float | None = None,
    method: str = "pca",
    decision: Decision = DEFAULTS.decision,
    groups: Groups | None = DEFAULTS.groups,
    example: Any = DEFAULTS.example,
    dynamic_shapes: Any = DEFAULTS.dynamic_shapes,
    mask: Mask = DEFAULTS.mask,
    ignore: Sequence[str] | str = DEFAULTS.ignore,
    progress: bool = DEFAULTS.progress,
    seed: int = DEFAULTS.seed,
    memory: float = DEFAULTS.memory,
    device: str | torch.device | None = DEFAULTS.device,
    checkpoint: str | os.PathLike[str] | None = DEFAULTS.checkpoint,
) -> GraphModule:
    """Replace layers by two smaller ones where that pays.

    Takes a trained model, or what `compress` made of it.

    Args:
        params, flops: fractions of the original to keep at most; half of the parameters with none.
        method: `pca` (principal components of the layers' outputs, every layer refitted to the
            original's outputs); or without looking at the data: `svd`, `learned-rank` (k1 x 1
            after 1 x k2; Idelbayev & Carreira-Perpinan, CVPR 2020) and `alds` (grouped encoders;
            Liebenwein et al., NeurIPS 2021).
        model, calib_loader: as for `compress`, as is all that is not named here.

    Returns:
        as `compress`. A layer `conv2` has become `conv2.0` and `conv2.1`.

    Raises:
        CaptureError, UnsupportedError, CalibrationError, BudgetError, StorageError: each says
            where, what, why and what to do.
    """
    options = Options(
        budget=Budget(flops, HALF if flops is None and params is None else params),
        method=find_method(method, RANK_METHODS),
        decision=decision,
        groups=groups,
        example=example,
        dynamic_shapes=dynamic_shapes,
        mask=mask,
        ignore=ignore,
        progress=progress,
        seed=seed,
        memory=memory,
        device=device,
        checkpoint=checkpoint,
    )
    return compress_whole(model, calib_loader, options)  # type: ignore[return-value]
