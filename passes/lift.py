"""Lift: ATen calls whose weights are parameters become ordinary layers again, under their
qualified names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from fxprune.graph.operators import operator_name
from fxprune.graph.tensors import drop_unread
from fxprune.label.analysis import attribute


def _rank(node: Node) -> int:
    return int(operator_name(node.target)[-2])


def _value(node: Node, index: int, default: Any) -> Any:
    return node.args[index] if len(node.args) > index else default


def _pair(value: Any, rank: int) -> Any:
    values = [value] * rank if isinstance(value, int) else list(value)
    return tuple(values * rank if len(values) == 1 else values)


def _convolution(node: Node, tensors: dict[str, Tensor]) -> nn.Module | None:
    rank = _rank(node)
    weight = tensors["weight"]
    groups = _value(node, 6, 1)
    padding = _value(node, 4, 0)
    made = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1](
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        _pair(_value(node, 3, 1), rank),  # type: ignore[arg-type]
        padding if isinstance(padding, str) else _pair(padding, rank),
        _pair(_value(node, 5, 1), rank),
        groups,
        "bias" in tensors,
        device="meta",
    )
    return made


def _transposed(node: Node, tensors: dict[str, Tensor]) -> nn.Module | None:
    rank = _rank(node)
    weight = tensors["weight"]
    groups = _value(node, 6, 1)
    made = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[rank - 1](
        weight.shape[0],
        weight.shape[1] * groups,
        tuple(weight.shape[2:]),
        _pair(_value(node, 3, 1), rank),  # type: ignore[arg-type]
        _pair(_value(node, 4, 0), rank),
        _pair(_value(node, 5, 0), rank),
        groups,
        "bias" in tensors,
        _pair(_value(node, 7, 1), rank),
        device="meta",
    )
    return made


def _linear(node: Node, tensors: dict[str, Tensor]) -> nn.Module | None:
    weight = tensors["weight"]
    return nn.Linear(weight.shape[1], weight.shape[0], "bias" in tensors, device="meta")


def _batch_norm(node: Node, tensors: dict[str, Tensor]) -> nn.Module | None:
    if "running_mean" not in tensors:
        return None
    rank = len(node.args[0].meta["val"].shape)  # type: ignore[union-attr]
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[rank]
    return kind(
        tensors["running_mean"].shape[0],
        node.args[7],
        node.args[6],
        "weight" in tensors,
        device="meta",  # type: ignore[arg-type]
    )


def _layer_norm(node: Node, tensors: dict[str, Tensor]) -> nn.Module | None:
    if "weight" not in tensors:
        return None
    return nn.LayerNorm(
        tuple(tensors["weight"].shape),
        _value(node, 4, 1e-5),
        True,
        "bias" in tensors,
        device="meta",
    )


def _group_norm(node: Node, tensors: dict[str, Tensor]) -> nn.Module | None:
    if set(tensors) != {"weight", "bias"}:
        return None
    return nn.GroupNorm(
        node.args[1], tensors["weight"].shape[0], _value(node, 4, 1e-5), device="meta"
    )  # type: ignore[arg-type]


def _embedding(node: Node, tensors: dict[str, Tensor]) -> nn.Module | None:
    rows, width = tensors["weight"].shape
    padding = _value(node, 2, -1)
    return nn.Embedding(rows, width, padding if padding >= 0 else None, device="meta")


Builder = Callable[[Node, dict[str, Tensor]], "nn.Module | None"]
# Operator -> position of the activation, names of the parameter arguments by position, builder.
LAYERS: dict[str, tuple[int, dict[int, str], Builder]] = {
    **{f"aten.conv{r}d": (0, {1: "weight", 2: "bias"}, _convolution) for r in (1, 2, 3)},
    **{f"aten.conv_transpose{r}d": (0, {1: "weight", 2: "bias"}, _transposed) for r in (1, 2, 3)},
    "aten.linear": (0, {1: "weight", 2: "bias"}, _linear),
    "aten.batch_norm": (
        0,
        {1: "weight", 2: "bias", 3: "running_mean", 4: "running_var"},
        _batch_norm,
    ),
    "aten.layer_norm": (0, {2: "weight", 3: "bias"}, _layer_norm),
    "aten.group_norm": (0, {2: "weight", 3: "bias"}, _group_norm),
    "aten.embedding": (1, {0: "weight"}, _embedding),
}
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class LiftModules:
    """Replace calls by layers where the layer's tensors are exactly the call's; the rest stay
    functions.

    Ensures the same outputs, state-dict keys and shapes; `.train()` and `.eval()` reach BatchNorm
    and dropout.
    """

    def __call__(self, module: GraphModule) -> GraphModule:
        """Lift in place and return the module."""
        calls: dict[str, list[tuple[Node, int, nn.Module]]] = {}
        for node in module.graph.nodes:
            found = self._layer(module, node)
            if found is not None:
                path, position, layer = found
                calls.setdefault(path, []).append((node, position, layer))
        for path, uses in calls.items():
            first = uses[0][2]
            if any(repr(layer) != repr(first) for _, _, layer in uses):
                continue
            self._place(module, path, first)
            for node, position, _ in uses:
                _call(module, node, path, position)
        self._dropout(module)
        drop_unread(module)
        return module

    def _layer(self, module: GraphModule, node: Node) -> tuple[str, int, nn.Module] | None:
        if node.op != "call_function" or operator_name(node.target) not in LAYERS or node.kwargs:
            return None
        position, names, build = LAYERS[operator_name(node.target)]
        paths, tensors = set(), {}
        for index, name in names.items():
            source = _value(node, index, None)
            if source is None:
                continue
            if source.op != "get_attr" or not str(source.target).endswith(f".{name}"):
                return None
            paths.add(str(source.target).rpartition(".")[0])
            tensors[name] = attribute(module, str(source.target))
        if len(paths) != 1:
            return None
        path = paths.pop()
        owner = attribute(module, path)
        held = {
            n
            for n, _ in [
                *owner.named_parameters(recurse=False),
                *owner.named_buffers(recurse=False),
            ]
        }
        plain = type(owner) is nn.Module or type(owner).__name__ == "InterpreterModule"
        if not plain or held - {COUNTER} != set(tensors) or owner._modules:
            return None
        layer = build(node, tensors)
        return None if layer is None else (path, position, layer)

    def _place(self, module: GraphModule, path: str, layer: nn.Module) -> None:
        owner = attribute(module, path)
        for name, parameter in owner.named_parameters(recurse=False):
            layer.register_parameter(name, parameter)
        for name, buffer in owner.named_buffers(recurse=False):
            layer.register_buffer(name, buffer)
        if COUNTER in layer._buffers and layer._buffers[COUNTER].is_meta:  # type: ignore[union-attr]
            layer._buffers[COUNTER] = torch.tensor(0)
        parent, _, leaf = path.rpartition(".")
        setattr(attribute(module, parent) if parent else module, leaf, layer.eval())

    def _dropout(self, module: GraphModule) -> None:
        for node in list(module.graph.nodes):
            if node.op != "call_function" or operator_name(node.target) != "aten.dropout":
                continue
            stack = list(node.meta.get("nn_module_stack", {}).values())
            path = str(stack[-1][0]) if stack and "ropout" in str(stack[-1][1]) else ""
            if not path or not _free(module, path):
                path = f"dropout_{node.name}"
            if not _has(module, path):
                module.add_submodule(path, nn.Dropout(float(node.args[1])).eval())
            _call(module, node, path, 0)


def _has(module: nn.Module, path: str) -> bool:
    try:
        return isinstance(attribute(module, path), nn.Dropout)
    except AttributeError:
        return False


def _free(module: nn.Module, path: str) -> bool:
    """Whether a dropout layer is or may be put at this path."""
    try:
        held = attribute(module, path)
    except AttributeError:
        return True
    return isinstance(held, nn.Dropout) or not list(held.parameters()) and not held._modules


def _call(module: GraphModule, node: Node, path: str, position: int) -> None:
    with module.graph.inserting_before(node):
        call = module.graph.call_module(path, (node.args[position],))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    module.graph.erase_node(node)
