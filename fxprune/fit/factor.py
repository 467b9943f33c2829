"""Layers replaced by two: factors for a plan's ranks, and back to one weight."""

from collections.abc import Iterator, Mapping

from torch import Tensor
from torch.fx import GraphModule

from fxprune.errors import PlanError
from fxprune.graph.nodes import attribute
from fxprune.handover.rows import AloneRow
from fxprune.label.layers import factorable
from fxprune.linalg.svd import factor
from fxprune.passes import Factorize
from fxprune.plans.factoring import Factoring, names
from fxprune.plans.plan import Plan, reduced_shape
from fxprune.session import Session


def factored(small: GraphModule, factorings: Mapping[str, Factoring]) -> GraphModule:
    """Replace layers by two, in place. A weight of a higher rank loses its smallest singular
    values.

    Args:
        small: a graph of ATen calls.
        factorings: by the name of the weight.
    """
    factors = {}
    for name, how in factorings.items():
        weight = attribute(small, name)
        shape = tuple(weight.shape)
        whole = (
            shape[0] % how.groups == 0
            and shape[1] % how.encoders == 0
            and (len(shape) > 2 or how.encoders == 1)
        )
        if not whole or how.rank > how.largest(shape):
            raise PlanError(f"{name} of shape {shape} cannot be replaced by two layers of {how}.")
        factors[name] = how.weights(*factor(how.fold(weight), how.rank), shape)
    return Factorize(factors)(small).graph_module if factors else small


def require_layers(session: Session, plan: Plan) -> None:
    """Check that a plan's layers are the model's.

    Raises:
        PlanError: names the first that is not, and why.
    """
    found, reasons = factorable(session.graph, session.ignored)
    for name in plan.factorings:
        if name not in found:
            raise PlanError(
                f"The plan replaces {name} by two layers; in this model "
                f"{reasons.get(name, 'no layer has a weight of that name')}."
            )


def left_alone(session: Session, plan: Plan) -> Iterator[AloneRow]:
    """Weights that stay one layer, and why."""
    found, reasons = factorable(session.graph, session.ignored)
    for name, tensor in session.graph.named_parameters():
        if tensor.dim() > 1 and name not in plan.factorings:
            other = reasons.get(name, "it is not one layer's own weight")
            yield AloneRow(
                name,
                tensor.numel(),
                "no lower rank pays, or the budget was met without it" if name in found else other,
            )


def merged(state: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """A compressed model's tensors with factors multiplied back, under the names of the model it
    was made from.

    Raises:
        PlanError: a factor is missing or of another shape.
    """
    result = dict(state)
    for name, how in plan.factorings.items():
        if not set(names(name)) <= set(result):
            raise PlanError(
                f"The model has no {' and '.join(names(name))}, which its plan says replace {name}."
            )
        first, second = (result.pop(n) for n in names(name))
        result[name] = how.merge(first, second, reduced_shape(name, plan.shapes[name], plan))
        path = name.removesuffix("weight")
        if f"{path}1.bias" in result:
            result[f"{path}bias"] = result.pop(f"{path}1.bias")
    return result
