"""Layers replaced by two, for a plan's ranks."""

from collections.abc import Mapping

from torch.fx import GraphModule

from fxprune.errors import PlanError
from fxprune.graph.nodes import attribute
from fxprune.label.layers import factorable
from fxprune.linalg.svd import factor
from fxprune.passes import Factorize
from fxprune.plans.factoring import Factoring
from fxprune.plans.plan import Plan
from fxprune.session import Session


def factorize_layers(small: GraphModule, factorings: Mapping[str, Factoring]) -> GraphModule:
    """Replace layers by two, in place. A weight of a higher rank loses its smallest singular
    values.

    Args:
        small: a graph of ATen calls.
        factorings: by the name of the weight.

    Raises:
        PlanError: a weight does not divide into a factoring's groups and encoders, or has no such
            rank.
    """
    factors = {}
    for name, how in factorings.items():
        weight = attribute(small, name)
        shape = tuple(weight.shape)
        divides = (
            shape[0] % how.groups == 0
            and shape[1] % how.encoders == 0
            and (len(shape) > 2 or how.encoders == 1)
        )
        if not divides or how.rank > how.largest(shape):
            raise PlanError(f"{name} of shape {shape} cannot be replaced by two layers of {how}.")
        factors[name] = how.weights(*factor(how.fold(weight), how.rank), shape)
    return Factorize(factors)(small).graph_module if factors else small


def require_layers(session: Session, plan: Plan) -> None:
    """Check that a plan's layers are the model's.

    Raises:
        PlanError: names the first that is not, and why.
    """
    layers, reasons = factorable(session.graph, session.ignored)
    for name in plan.factorings:
        if name not in layers:
            raise PlanError(
                f"The plan replaces {name} by two layers; in this model "
                f"{reasons.get(name, 'no layer has a weight of that name')}."
            )
