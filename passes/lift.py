"""Lift: ATen calls whose weights are parameters become ordinary layers again, under their
qualified names.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from os.path import commonprefix

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from fxprune.errors import PlanError
from fxprune.graph.nodes import attribute, module_path
from fxprune.graph.operators import operator_name
from fxprune.graph.tensors import AS_LAYERS, COUNTER, drop_unread, is_made
from fxprune.passes.contract import InPlacePass
from fxprune.passes.facts import Facts, tensors_of
from fxprune.passes.layers import LAYERS
from fxprune.passes.recurrent import call_recurrent, recurrent_layer


@dataclass(frozen=True)
class Lifted:
    """A call, and the layer that can stand for it.

    Attributes:
        node: the call.
        activation: position of the argument that the layer is called on.
        path: where the layer goes: where its tensors are, or below `AS_LAYERS`.
        layer: on the meta device; the tensors are registered in it when it is placed.
        shared: names of the tensors, by the layer's names for them, where they stay with their
            owner too.
    """

    node: Node
    activation: int
    path: str
    layer: nn.Module
    shared: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class LiftModules(InPlacePass):
    """Replace calls by layers: where a module holds exactly the layer's tensors, in its place, and
    elsewhere below `AS_LAYERS`, with tensors shared; what no layer computes stays a function.

    Ensures the same outputs, and the same tensors under the same names; `.train()` and `.eval()`
    reach BatchNorm and dropout.
    """

    def call(self, module: GraphModule) -> PassResult:
        """Lift every call that can be."""
        uses: dict[str, list[Lifted]] = defaultdict(list)
        for node in module.graph.nodes:
            lifted = _lift_call(module, node)
            if lifted is not None:
                uses[lifted.path].append(lifted)
        modified = False
        for path, calls in uses.items():
            layer, shared = calls[0].layer, calls[0].shared
            if any((repr(c.layer), c.shared) != (repr(layer), shared) for c in calls):
                continue
            if shared:
                _place_shared(module, path, layer, shared)
            else:
                _place(module, path, layer)
            for call in calls:
                if isinstance(layer, nn.RNNBase):
                    call_recurrent(module, call.node, path)
                else:
                    _call_layer(module, call.node, path, call.activation)
            modified = True
        dropouts = _lift_dropout(module)
        unread = drop_unread(module)
        return PassResult(module, modified or dropouts or unread)

    def ensures(self, before: Facts, after: GraphModule) -> None:
        """Every tensor is the one there was, under its name; what is new counts batches."""
        found, held = tensors_of(after), {id(tensor) for tensor in before.tensors.values()}
        for name, tensor in before.tensors.items():
            if found.pop(name, None) is not tensor:
                raise PlanError(f"{name} is not the tensor it was")
        for name, tensor in found.items():
            shared = name.startswith(AS_LAYERS) and id(tensor) in held
            if name.rpartition(".")[2] != COUNTER and not shared:
                raise PlanError(f"{name} is a tensor that the graph did not have")


def _lift_call(module: GraphModule, node: Node) -> Lifted | None:
    """The layer that can stand for a call, if one can."""
    recurrent = recurrent_layer(module, node)
    if recurrent is not None:
        path, layer = recurrent
        names = layer._flat_weights_names
        own = {name: attribute(module, f"{path}.{name}") for name in names}
        fits = _holds_only(attribute(module, path), set(own)) and _holds_alike(layer, own)
        return Lifted(node, 0, path, layer) if fits else None
    return _lift(module, node)


def _lift(module: GraphModule, node: Node) -> Lifted | None:
    """The layer of `LAYERS` that can stand for a call, if one can."""
    if node.op != "call_function" or operator_name(node.target) not in LAYERS or node.kwargs:
        return None
    kind = LAYERS[operator_name(node.target)]
    names = dict[str, str]()
    for position, name in kind.tensors.items():
        source = node.args[position] if len(node.args) > position else None
        if source is None:
            continue
        if not isinstance(source, Node) or source.op != "get_attr":
            return None
        names[name] = str(source.target)
    tensors = {name: attribute(module, held) for name, held in names.items()}
    layer = kind.build(node, tensors) if tensors else None
    if layer is None or not _holds_alike(layer, tensors):
        return None
    path = _own_path(module, names)
    if path is not None:
        return Lifted(node, kind.activation, path, layer)
    if any(map(is_made, names.values())) or hasattr(module, AS_LAYERS):
        return None
    return Lifted(node, kind.activation, _shared_path(names), layer, names)


def _own_path(module: GraphModule, names: Mapping[str, str]) -> str | None:
    """Where a module holds a layer's tensors, under the layer's names, and nothing else."""
    paths = {held.rpartition(".")[0] for held in names.values()}
    path = paths.pop()
    if paths or not path or any(held != f"{path}.{name}" for name, held in names.items()):
        return None
    return path if _holds_only(attribute(module, path), set(names)) else None


def _shared_path(names: Mapping[str, str]) -> str:
    """What the layer is called whose tensors have these names: what they begin with alike."""
    alike = commonprefix(list(names.values())).removesuffix("weight").strip("._")
    name = alike or next(iter(names.values()))
    return f"{AS_LAYERS}.{name.replace('.', '_')}"


def _holds_alike(layer: nn.Module, tensors: dict[str, Tensor]) -> bool:
    """Whether a layer has parameters where these are: a frozen norm's weights are buffers."""
    return all(
        isinstance(tensor, nn.Parameter) == (name in layer._parameters)
        for name, tensor in tensors.items()
    )


def _holds_only(owner: nn.Module, names: set[str]) -> bool:
    """Whether a module is a mere holder of these tensors and nothing else."""
    own = {n for n, _ in owner.named_parameters(recurse=False)}
    own |= {n for n, _ in owner.named_buffers(recurse=False)}
    plain = type(owner) is nn.Module or type(owner).__name__ == "InterpreterModule"
    return plain and own - {COUNTER} == names and not owner._modules


def _place(module: GraphModule, path: str, layer: nn.Module) -> None:
    """Put a layer where its tensors are, with them."""
    owner = attribute(module, path)
    for name, parameter in owner.named_parameters(recurse=False):
        layer.register_parameter(name, parameter)
    for name, buffer in owner.named_buffers(recurse=False):
        layer.register_buffer(name, buffer)
    if isinstance(layer, nn.RNNBase):
        layer._init_flat_weights()
    _count_batches(layer)
    parent, _, leaf = path.rpartition(".")
    setattr(attribute(module, parent) if parent else module, leaf, layer.eval())


def _place_shared(
    module: GraphModule, path: str, layer: nn.Module, names: Mapping[str, str]
) -> None:
    """Put a layer below `AS_LAYERS`, with tensors that stay with their owners too."""
    for name, held in names.items():
        slots = layer._parameters if name in layer._parameters else layer._buffers
        slots[name] = attribute(module, held)
    _count_batches(layer)
    if AS_LAYERS not in module._modules:
        module.add_module(AS_LAYERS, nn.Module())
    setattr(module.get_submodule(AS_LAYERS), path.removeprefix(f"{AS_LAYERS}."), layer.eval())


def _count_batches(layer: nn.Module) -> None:
    counter = layer._buffers.get(COUNTER)
    if counter is not None and counter.is_meta:
        layer._buffers[COUNTER] = torch.tensor(0)


def _lift_dropout(module: GraphModule) -> bool:
    """Replace dropout calls by layers, where they were if that place is free; whether there were
    any.
    """
    calls = [
        node
        for node in module.graph.nodes
        if node.op == "call_function" and operator_name(node.target) == "aten.dropout"
    ]
    for node in calls:
        stack = list(node.meta.get("nn_module_stack", {}).values())
        path = module_path(node) if stack and "ropout" in str(stack[-1][1]) else ""
        if not path or not _free(module, path):
            path = f"dropout_{node.name}"
        if not isinstance(_at(module, path), nn.Dropout):
            module.add_submodule(path, nn.Dropout(float(node.args[1])).eval())
        _call_layer(module, node, path, 0)
    return bool(calls)


def _at(module: nn.Module, path: str) -> nn.Module | None:
    """What is at a path, if anything is."""
    try:
        found: nn.Module = attribute(module, path)
    except AttributeError:
        return None
    return found


def _free(module: nn.Module, path: str) -> bool:
    """Whether a dropout layer is or may be put at this path."""
    there = _at(module, path)
    if there is None or isinstance(there, nn.Dropout):
        return True
    return not list(there.parameters()) and not there._modules


def _call_layer(module: GraphModule, node: Node, path: str, activation: int) -> None:
    """Call the layer at a path in a call's place."""
    with module.graph.inserting_before(node):
        call = module.graph.call_module(path, (node.args[activation],))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    module.graph.erase_node(node)
