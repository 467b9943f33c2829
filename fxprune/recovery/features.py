"""What the two models have in common inside: outputs of layers, on the channels that both have.

Layers keep their names through compression, and a plan says which of a layer's channels are left,
so that any layer of the compressed model can be held against the original's, channel by channel.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate

from fxprune.errors import PlanError
from fxprune.graph.convolution import OUTPUTS_FIRST
from fxprune.graph.nodes import argument, attribute
from fxprune.graph.operators import operator_name
from fxprune.graph.tensors import names_of, shared_names
from fxprune.handover.masked import merge_factors
from fxprune.label.layers import own_layers
from fxprune.plans.factoring import names as names_of_factors
from fxprune.plans.plan import Plan
from fxprune.recovery.frozen import fold_frozen

MOST_POSITIONS = 1024
"""Of a layer's output that are compared in an example: all of a large image take as long to compare
as to compute, and neighbors say nearly the same.
"""


@dataclass(frozen=True)
class Feature:
    """A layer's output in both models.

    Attributes:
        weight: name of the layer's weight in the original.
        original: name of the node in the original's graph.
        small: name of the node in the compressed model's graph.
        dim: of the channels, from the end.
        kept: which of the original's channels the compressed model has; None for all.
    """

    weight: str
    original: str
    small: str
    dim: int
    kept: tuple[int, ...] | None

    def thin(self, value: Tensor) -> Tensor:
        """Every so many positions of a layer's outputs (N, ...), where there are many; a view."""
        axes = [axis for axis in range(1, value.dim()) if axis - value.dim() != self.dim]
        count = math.prod(value.shape[axis] for axis in axes)
        if count <= MOST_POSITIONS:
            return value
        step = math.ceil((count / MOST_POSITIONS) ** (1 / len(axes)))
        return value[tuple(slice(None, None, step if a in axes else 1) for a in range(value.dim()))]

    def pick(self, value: Tensor) -> Tensor:
        """Those channels of the original's output that the compressed model has."""
        if self.kept is None:
            return value
        return value.index_select(self.dim, torch.tensor(self.kept, device=value.device))


def match_features(original: GraphModule, small: GraphModule, plan: Plan) -> tuple[Feature, ...]:
    """The last layers whose outputs can be compared, but for those that make the model's outputs.

    Layers before them are free to change: what is asked of them as well holds back what is asked
    of these (docs/recover.md).

    Args:
        original: captured of the original.
        small: what `compress` returned.
        plan: of `small`.
    """
    found, calls = [], _calls(small, plan)
    last = _last_layers(original)
    for layer in own_layers(original).values():
        others = calls.get(layer.weight, [])
        kept = plan.kept.get(layer.weight, {}).get(0)
        if (
            len(others) != len(layer.calls)
            or kept
            and isinstance(kept[0], list)
            or (layer.weight, 0) in plan.rotated
        ):
            continue
        rank = attribute(original, layer.weight).dim()
        for call, other in zip(layer.calls, others, strict=True):
            if call not in last:
                own = None if kept is None else tuple(int(i) for i in kept)  # type: ignore[arg-type]
                dim = -1 if rank == 2 else 1 - rank
                found.append((call, Feature(layer.weight, call.name, other.name, dim, own)))
    followed = _followed(original, {call for call, _ in found})
    return tuple(feature for call, feature in found if call not in followed)


def require_same_model(model: nn.Module, small: nn.Module, plan: Plan) -> None:
    """Check by names and shapes that a compressed model was made from this original.

    Args:
        model: the captured graph of the original.

    Raises:
        PlanError: it was not; names the first tensor that differs.
    """
    shapes = {name: tuple(t.shape) for name, t in _tensors(model).items()}
    advice = "Pass the model that compress, or factorize, was given."
    for name, shape in plan.shapes.items():
        if shapes.get(name) != tuple(shape) and not (name not in shapes and _is_new(name, plan)):
            found = f"has the shape {shapes[name]}" if name in shapes else "is not there"
            raise PlanError(
                f"The compressed model was not made from this one: {name}, {tuple(shape)} in its "
                f"plan, {found}. {advice}"
            )
    merged, first = merge_factors(small.state_dict(), plan), names_of(small)
    for name, value in merged.items():
        whole = name not in plan.shapes and first.get(name, name) == name
        if whole and name.rpartition(".")[2] != "num_batches_tracked":
            other = shapes.get(name)
            if other is not None and other != tuple(value.shape):
                raise PlanError(
                    f"The compressed model was not made from this one: {name} is "
                    f"{tuple(value.shape)} and the original's is {other}. {advice}"
                )
            new = other is None and not _is_new(name, plan)
            if new and isinstance(_tensors(small).get(name), nn.Parameter):
                raise PlanError(
                    f"The compressed model was not made from this one, which has no {name}. "
                    f"{advice}"
                )


def _is_new(name: str, plan: Plan) -> bool:
    """Whether a tensor may be there that the original does not have: what a folded norm added
    stands in a bias or in a map.
    """
    return bool(plan.streams) and (name.endswith(".bias") or name.rpartition(".")[0] in plan.maps)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters(remove_duplicate=False)) | dict(
        module.named_buffers(remove_duplicate=False)
    )


def _calls(small: GraphModule, plan: Plan) -> dict[str, list[Node]]:
    """The calls that give a layer's outputs, by the original's name of its weight."""
    first = {names_of_factors(weight)[0] for weight in plan.factorings}
    second = {names_of_factors(weight)[1]: weight for weight in plan.factorings}
    shared, found = shared_names(small), defaultdict[str, list[Node]](list)
    for node in small.graph.nodes:
        weight = None
        if node.op == "call_module":
            held = getattr(small.get_submodule(str(node.target)), "weight", None)
            name = f"{node.target}.weight"
            weight = None if held is None else shared.get(name, name)
        elif operator_name(node.target) in OUTPUTS_FIRST:
            source = argument(node, 1)
            if isinstance(source, Node) and source.op == "get_attr":
                weight = str(source.target)
        if weight is not None and weight not in first:
            found[second.get(weight, weight)].append(node)
    return found


def _last_layers(graph: GraphModule) -> set[Node]:
    """Calls of layers behind which no other layer comes: the outputs' own part of the loss is what
    says how these should be.
    """
    calls = {call for layer in own_layers(graph).values() for call in layer.calls}
    return calls - _followed(graph, calls)


def _followed(graph: GraphModule, calls: set[Node]) -> set[Node]:
    """Nodes behind which some of these calls come."""
    followed = set[Node]()
    for node in reversed(graph.graph.nodes):
        if any(user in followed or user in calls for user in node.users):
            followed.add(node)
    return followed


def tap(
    module: GraphModule, nodes: Sequence[str], device: torch.device, frozen: bool = False
) -> GraphModule:
    """The same layers and tensors under a graph that takes flat arguments and gives the values of
    some nodes beside the flat outputs: ([values], [outputs]).

    Args:
        module: shares its tensors with the result where they are on the device; stays where it is.
        nodes: their names.
        device: where it runs; constants that the graph makes are made there.
        frozen: whether norms keep their statistics, and may be computed with the layers before.
    """
    graph, known = Graph(), dict[Node, Node]()
    outputs = graph.graph_copy(module.graph, known)
    by_name: Mapping[str, Node] = {old.name: new for old, new in known.items()}
    graph.output(([by_name[name] for name in nodes], outputs))

    def moved(value: Any) -> Any:
        return device if isinstance(value, torch.device) else value

    for node in graph.nodes:
        node.args, node.kwargs = map_aggregate(node.args, moved), map_aggregate(node.kwargs, moved)
    if frozen:
        fold_frozen(module, graph)
    tapped = GraphModule(module, graph)
    tensors = (*tapped.parameters(), *tapped.buffers())
    there = torch.empty(0, device=device).device
    if all(t.device == there or t.device.type == there.type == "cpu" for t in tensors):
        return tapped
    return copy.deepcopy(tapped).to(device)
