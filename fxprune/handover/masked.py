"""The structural check: the original module with the compressed weights scattered into place.

Factors are multiplied back, and zeros stand where channels went.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fxprune.capture.copying import copy_model
from fxprune.capture.fold_constants import FOLDED
from fxprune.capture.parametrizations import fold_parametrizations
from fxprune.capture.supported import check_model
from fxprune.errors import PlanError
from fxprune.graph.nodes import attribute
from fxprune.graph.tensors import COUNTER, is_made, names_of
from fxprune.handover.report import plan_of, report
from fxprune.plans.factoring import bias_names
from fxprune.plans.factoring import names as names_of_factors
from fxprune.plans.plan import Plan, reduced_shape, scatter


def masked(model: nn.Module, small: nn.Module) -> nn.Module:
    """A module of the original's sizes whose outputs equal those of `small` to rounding.

    Args:
        model: the original; not changed.
        small: what `compress` made of it.

    Returns:
        a copy of `model` in eval mode; weights that it computes from others (weight norm) are plain
        ones there.

    Raises:
        PlanError: `small` was not made from this model.
        UnsupportedError: the original has no weights, or ones without values.
    """
    if not isinstance(model, nn.Module):
        raise PlanError(f"The original is a {type(model).__name__}, not a torch.nn.Module.")
    check_model(model)
    plan = plan_of(small)
    if any(FOLDED in note for note in report(small).notes):
        raise PlanError(
            f"A weight of this {type(model).__name__} is computed in its forward, and the "
            "compressed model holds what comes out, which the original cannot be given. Compare "
            "outputs instead."
        )
    full = copy_model(model).eval()
    fold_parametrizations(full)
    weights, names = merge_factors(small.state_dict(), plan), names_of(small)
    with torch.no_grad():
        for name, value in weights.items():
            if names.get(name, name) != name:  # a tensor's second name
                continue
            own = _tensor(full, name)
            if own is None:
                # What forward makes is only ever sliced, and a counter came with a lifted norm.
                if is_made(name) or name.rpartition(".")[2] == COUNTER:
                    continue
                raise PlanError(
                    f"{name} of the compressed model is not a tensor of this "
                    f"{type(model).__name__}."
                )
            if name in plan.kept:
                if tuple(own.shape) != plan.shapes[name]:
                    raise PlanError(
                        f"{name} has shape {tuple(own.shape)}; the plan was made for "
                        f"{plan.shapes[name]}."
                    )
                value = scatter(value, plan.shapes[name], plan.kept[name])
            own.data.copy_(value)
    return full


def _tensor(model: nn.Module, name: str) -> Tensor | None:
    """A model's tensor of this name, registered or a plain attribute."""
    try:
        found = attribute(model, name)
    except AttributeError:
        return None
    return found if isinstance(found, Tensor) else None


def merge_factors(state: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """A compressed model's tensors with factors multiplied back, under the names of the model it
    was made from.

    Raises:
        PlanError: a factor is missing or of another shape.
    """
    merged = dict(state)
    for name, how in plan.factorings.items():
        factors = names_of_factors(name)
        if not set(factors) <= set(merged):
            raise PlanError(
                f"The model has no {' and '.join(factors)}, which its plan says replace {name}."
            )
        first, second = (merged.pop(factor) for factor in factors)
        merged[name] = how.merge(first, second, reduced_shape(name, plan.shapes[name], plan))
        bias, moved = bias_names(name) or (name, name)
        if moved in merged:
            merged[bias] = merged.pop(moved)
    return merged
