"""The structural check: the original module with the compressed weights scattered into place.

Factors are multiplied back, and zeros stand where channels went.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from fxprune.capture.copying import copy_model
from fxprune.capture.fold_constants import FOLDED
from fxprune.capture.parametrizations import fold_parametrizations
from fxprune.capture.supported import check_model
from fxprune.errors import PlanError
from fxprune.graph.nodes import attribute
from fxprune.graph.tensors import COUNTER, is_made, names_of
from fxprune.handover.refolded import refold
from fxprune.handover.report import plan_of, report
from fxprune.linalg.rotation import mirrored
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
        ones there. Where `small` has linear layers that the model does not (`Plan.maps`), or
        weights that its forward computes, a graph of the model in which these are.

    Raises:
        PlanError: `small` was not made from this model.
        UnsupportedError: the original has no weights, or ones without values.
    """
    if not isinstance(model, nn.Module):
        raise PlanError(f"The original is a {type(model).__name__}, not a torch.nn.Module.")
    check_model(model)
    plan = plan_of(small)
    computed = any(FOLDED in note for note in report(small).notes)
    if plan.maps or computed:
        full: nn.Module = refold(model, plan, report(small).inputs)
    else:
        full = copy_model(model).eval()
        fold_parametrizations(full)
    if plan.maps:  # whose norms are folded already
        return _scattered(full, small, replace(plan, folded={}), {})
    return _scattered(full, small, plan, _means(plan))


def _scattered(
    full: nn.Module, small: nn.Module, plan: Plan, means: Mapping[str, list[int]]
) -> nn.Module:
    """Put the compressed weights into a module of the original's sizes.

    Args:
        full: changed.
        small: the compressed model.
        plan: of it.
        means: by weight, the axes of which the last coordinate becomes the mean's direction.
    """
    weights, names = merge_factors(small.state_dict(), plan), names_of(small)
    with torch.no_grad():
        for name, value in weights.items():
            if names.get(name, name) != name:  # a tensor's second name
                continue
            own = _place_for(full, name, value, plan)
            if own is None:
                continue
            if name in plan.kept:
                value = scatter(value, plan.shapes[name], plan.kept[name])
            for axis in means.get(name, ()):
                value = mirrored(value, axis)
            own.data.copy_(value)
        for name, filled in plan.folded.items():
            _required(full, name).data.fill_(filled)
    return full


def _means(plan: Plan) -> dict[str, list[int]]:
    """The weight axes of which the last coordinate is the mean's direction: a layer norm of the
    original's class subtracts that, wherever it lies in the class' coordinates.
    """
    found: dict[str, list[int]] = {}
    for rotation in plan.rotations.values():
        for name, axis in rotation.axes if rotation.norm == "layer" else ():
            found.setdefault(name, []).append(axis)
    return found


def _place_for(full: nn.Module, name: str, value: Tensor, plan: Plan) -> Tensor | None:
    """The original's tensor of this name; None for what only a compressed model holds.

    Raises:
        PlanError: it has none, or one of another shape.
    """
    own = None if is_made(name) else _tensor(full, name)
    if own is None and plan.streams:
        own = _new_bias(full, name, value)
    # What forward makes is only ever sliced, and a counter came with a lifted norm.
    if own is None and (is_made(name) or name.rpartition(".")[2] == COUNTER):
        return None
    own = _required(full, name) if own is None else own
    if name in plan.kept and tuple(own.shape) != plan.shapes[name]:
        raise PlanError(
            f"{name} has shape {tuple(own.shape)}; the plan was made for {plan.shapes[name]}."
        )
    return own


def _required(model: nn.Module, name: str) -> Tensor:
    """A tensor of the original.

    Raises:
        PlanError: there is none of this name.
    """
    found = _tensor(model, name)
    if found is None:
        raise PlanError(
            f"{name} of the compressed model is not a tensor of this {type(model).__name__}."
        )
    return found


def _tensor(model: nn.Module, name: str) -> Tensor | None:
    """A model's tensor of this name, registered or a plain attribute."""
    try:
        found = attribute(model, name)
    except AttributeError:
        return None
    return found if isinstance(found, Tensor) else None


def _new_bias(model: nn.Module, name: str, value: Tensor) -> Tensor | None:
    """Give a linear layer without a bias one, which then holds what a norm before it added."""
    path, _, leaf = name.rpartition(".")
    try:
        owner = attribute(model, path)
    except AttributeError:
        return None
    if leaf != "bias" or not isinstance(owner, nn.Linear) or owner.bias is not None:
        return None
    owner.bias = nn.Parameter(torch.empty_like(value))
    return owner.bias


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
