"""The structural check: the original module with the compressed weights scattered into place.

Factors are multiplied back, and zeros stand where channels went.
"""

import copy

import torch
from torch import nn

from fxprune.errors import PlanError
from fxprune.fit.factor import merged
from fxprune.graph.tensors import names_of
from fxprune.handover.report import plan_of
from fxprune.plans.plan import scatter


def masked(model: nn.Module, small: nn.Module) -> nn.Module:
    """A module of the original's sizes whose outputs equal those of `small` to rounding.

    Args:
        model: the original; not changed.
        small: what `compress` made of it.

    Returns:
        a copy of `model` in eval mode.

    Raises:
        PlanError: `small` was not made from this model.
    """
    plan = plan_of(small)
    full = copy.deepcopy(model).eval()
    originals = dict(full.named_parameters(remove_duplicate=False)) | dict(
        full.named_buffers(remove_duplicate=False)
    )
    weights, names = merged(small.state_dict(), plan), names_of(small)
    with torch.no_grad():
        for name, value in weights.items():
            if names.get(name, name) != name:  # a tensor's second name
                continue
            if name not in originals:
                raise PlanError(
                    f"{name} of the compressed model is not a tensor of this "
                    f"{type(model).__name__}."
                )
            if name in plan.kept:
                if tuple(originals[name].shape) != plan.shapes[name]:
                    raise PlanError(
                        f"{name} has shape {tuple(originals[name].shape)}; the plan was made for "
                        f"{plan.shapes[name]}."
                    )
                value = scatter(value, plan.shapes[name], plan.kept[name])
            originals[name].data.copy_(value)
    return full
