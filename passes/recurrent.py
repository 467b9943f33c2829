"""Calls of recurrent operators that a layer can stand for, and their place in the graph."""

import operator
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from fxprune.graph.nodes import attribute
from fxprune.graph.operators import operator_name
from fxprune.graph.recurrent import BATCH_FIRST, HAS_BIASES, WEIGHTS, Recurrent, recurrent_of

KINDS: dict[str, Any] = {
    "aten.gru": nn.GRU,
    "aten.lstm": nn.LSTM,
    "aten.rnn_tanh": nn.RNN,
    "aten.rnn_relu": nn.RNN,
}
ZEROS = torch.ops.aten.new_zeros.default


def recurrent_layer(module: GraphModule, node: Node) -> tuple[str, nn.RNNBase] | None:
    """Path of a recurrent call's weights and the layer, on the meta device, that they are all of;
    None where there is none. Layers of several layers differ in widths, and stay calls.
    """
    how = recurrent_of(node)
    if how is None or len(how.layers) > 1:
        return None
    weights: list[Any] = list(node.args[WEIGHTS])  # type: ignore[arg-type]
    if any(not isinstance(w, Node) or w.op != "get_attr" for w in weights):
        return None
    names = [str(weight.target).rpartition(".") for weight in weights]
    path = names[0][0]
    if not path or any(owner != path for owner, _, _ in names):
        return None
    layer = _build(module, node, how)
    if layer._flat_weights_names != [leaf for _, _, leaf in names]:
        return None
    return path, layer


def _build(module: GraphModule, node: Node, how: Recurrent) -> nn.RNNBase:
    first = how.layers[0][0]
    read = attribute(module, str(first.read.target))
    outputs = attribute(module, str(first.recur.target)).shape[1]
    settings: dict[str, Any] = {}
    if how.operator.startswith("aten.rnn"):
        settings["nonlinearity"] = how.operator.removeprefix("aten.rnn_")
    elif first.project is not None:
        settings["proj_size"] = outputs
    layer: nn.RNNBase = KINDS[operator_name(node.target)](
        read.shape[1],
        read.shape[0] // how.gates,
        bias=bool(node.args[HAS_BIASES]),
        batch_first=bool(node.args[BATCH_FIRST]),
        bidirectional=len(how.layers[0]) > 1,
        device="meta",
        **settings,
    )
    return layer


def call_recurrent(module: GraphModule, node: Node, path: str) -> None:
    """Call the layer at a path in a call's place; states of zeros are its own."""
    how = recurrent_of(node)
    assert how is not None
    states = tuple(how.states)
    args: tuple[Any, ...] = (how.source,)
    if not all(map(_is_own_zero, states)):
        args = (how.source, states if len(states) > 1 else states[0])
    with module.graph.inserting_before(node):
        call = module.graph.call_module(path, args)
        call.meta = {k: v for k, v in node.meta.items() if k != "val"}
        if len(states) > 1:
            last = module.graph.call_function(operator.getitem, (call, 1))
    for user in list(node.users):
        kind = user.args[1]
        if len(states) > 1 and kind != 0:
            user.args = (last, kind - 1)  # type: ignore[operator]
        else:
            user.args = (call, kind)
    module.graph.erase_node(node)
    for unread in (*([last] if len(states) > 1 else ()), *states):
        _erase_unread(unread)


def _erase_unread(node: Node) -> None:
    """Erase a call that nothing reads, and what only it read."""
    if node.users or node.op != "call_function":
        return
    sources = node.all_input_nodes
    node.graph.erase_node(node)
    for source in sources:
        _erase_unread(source)


def _is_own_zero(state: Any) -> bool:
    """Whether a state is the zeros that a layer makes itself."""
    if not isinstance(state, Node) or operator_name(state.target) != "aten.stack":
        return False
    rows: Any = state.args[0]
    return all(isinstance(row, Node) and row.target is ZEROS for row in rows)
