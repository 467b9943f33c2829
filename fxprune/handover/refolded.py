"""The original as a graph: what stands for its class where the compressed model has layers or
weights that the class does not.
"""

import torch
from torch import nn
from torch.fx import GraphModule

from fxprune.capture.batch import Batch, make_batch
from fxprune.capture.copying import copy_model
from fxprune.capture.export import Captured, capture_either
from fxprune.capture.undisturbed import undisturbed
from fxprune.errors import CaptureError, PlanError
from fxprune.graph.tensors import own_memory
from fxprune.handover.module import CompressedModule
from fxprune.handover.rows import InputRow
from fxprune.label.analysis import analyze_graph
from fxprune.passes import LiftModules
from fxprune.plans.plan import Plan
from fxprune.profile.streams import fold_again


def refold(model: nn.Module, plan: Plan, inputs: tuple[InputRow, ...]) -> GraphModule:
    """Capture the original anew and, where the plan has maps, fold its norms as the plan's were.

    Args:
        model: the original; not changed.
        plan: of the compressed model.
        inputs: shapes that it was traced on.

    Returns:
        a graph of layers, of the original's sizes, function and names, in which weights that a
        forward computes are parameters; with the plan's maps and then without the norms' weights.

    Raises:
        PlanError: the inputs are not known by shapes, or the norms cannot be folded so.
        CaptureError: torch.export cannot trace the model.
    """
    if not inputs:
        what = f"layers ({plan.maps[0]})" if plan.maps else "weights"
        raise PlanError(
            f"The compressed model has {what} that a {type(model).__name__} does not have, and its "
            "inputs are nests, whose shapes the report does not hold. Compare outputs instead."
        )
    graph: GraphModule | None
    with undisturbed(model, 0):
        captured = _capture(model, inputs)
        if plan.maps:
            analysis = analyze_graph(captured.graph, captured.example.size)
            graph = fold_again(captured.graph, analysis, plan.streams, plan.maps)
            if graph is not None:
                own_memory(graph, captured.graph)
        else:
            graph = copy_model(captured.graph)  # which may change its mode
    if graph is None:
        raise PlanError(
            f"The norms of this {type(model).__name__} cannot be folded as those of the compressed "
            f"model were ({', '.join(plan.streams)}). Pass the model that was compressed."
        )
    return CompressedModule.of(LiftModules()(graph).graph_module).eval()


def _capture(model: nn.Module, inputs: tuple[InputRow, ...]) -> Captured:
    """On zeros, or on ones where a model does not run on these: what is a mask is not known."""
    zeros, ones = (_example(model, inputs, fill) for fill in (0, 1))
    try:
        return capture_either(model, zeros, zeros)
    except CaptureError:
        return capture_either(model, ones, ones)


def _example(model: nn.Module, inputs: tuple[InputRow, ...], fill: int) -> Batch:
    device = next(model.parameters()).device
    made = [
        (row.name, torch.full(row.shape, fill, dtype=getattr(torch, row.dtype), device=device))
        for row in inputs
    ]
    args = tuple(tensor for name, tensor in made if not name)
    return make_batch(args, {name: tensor for name, tensor in made if name})
