"""Weights that stay one layer, and why: rows of the report."""

from collections.abc import Iterator

from fxprune.handover.rows import AloneRow
from fxprune.label.layers import factorable
from fxprune.plans.plan import Plan
from fxprune.session import Session


def left_alone(session: Session, plan: Plan) -> Iterator[AloneRow]:
    """A row for every weight that a plan's ranks leave one layer."""
    layers, reasons = factorable(session.graph, session.ignored)
    for name, tensor in session.graph.named_parameters():
        if tensor.dim() > 1 and name not in plan.factorings:
            reason = (
                "no lower rank pays, or the budget was met without it"
                if name in layers
                else reasons.get(name, "it is not one layer's own weight")
            )
            yield AloneRow(name, tensor.numel(), reason)
