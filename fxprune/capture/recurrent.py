"""Recurrent layers in the one form that all later stations know: a call per layer, whose initial
state, where it is zero, follows from the layer's own weights and so has the width that they have.
"""

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from fxprune.graph.nodes import argument, hand_over
from fxprune.graph.operators import operator_name
from fxprune.graph.recurrent import HAS_BIASES, Direction, Recurrent, recurrent_of
from fxprune.rules.movement import MOVEMENT

aten = torch.ops.aten
ZEROS = {"aten.zeros", "aten.zeros_like", "aten.new_zeros"}
FILLED = {"aten.full": 1, "aten.full_like": 1, "aten.new_full": 2}
"""Operators that make a tensor of one number, and the number's position."""
PASSING = {*MOVEMENT, "aten.to", "aten._to_copy", "aten.clone", "aten.contiguous", "aten.detach"}
"""Operators that make zeros of zeros."""


def split_layers(module: GraphModule) -> None:
    """Give recurrent layers calls of their own, in place; what lies between two of them (hidden
    units, dropout) is then a node like any other.
    """
    changed = False
    for node in list(module.graph.nodes):
        recurrent = recurrent_of(node)
        values = node.meta.get("val")
        if recurrent is None or not isinstance(values, (tuple, list)) or values[0].dim() != 3:
            continue
        if len(recurrent.layers) > 1 or any(map(_is_zero, recurrent.states)):
            if all(user.target is operator.getitem for user in node.users):
                with module.graph.inserting_before(node):
                    _Splitting(module.graph, node, recurrent).split()
                changed = True
    if changed:
        module.graph.eliminate_dead_code()
        module.recompile()


def _is_zero(node: Any) -> bool:
    """Whether every element of a tensor is zero, whatever the inputs are."""
    if not isinstance(node, Node) or node.op != "call_function":
        return False
    name = operator_name(node.target)
    if name in FILLED:
        return argument(node, FILLED[name]) in (0, 0.0)
    return name in ZEROS or (name in PASSING and _is_zero(argument(node, 0)))


class _Splitting:
    """One call of several layers, or with states of zeros, that becomes a call per layer.

    Args:
        graph: where nodes are inserted, before the call.
        node: the call.
        recurrent: what it runs.
    """

    def __init__(self, graph: Graph, node: Node, recurrent: Recurrent):
        self._graph, self._node, self._how = graph, node, recurrent
        self._zero = [_is_zero(state) for state in recurrent.states]

    def split(self) -> None:
        """Insert the calls and let the users read them."""
        source, values = self._how.source, self._node.meta["val"]
        lasts: list[list[Node]] = []
        for number, layer in enumerate(self._how.layers):
            last_layer = number == len(self._how.layers) - 1
            call = self._call(source, number, layer)
            parts = (values[0], *(self._first(v, len(layer)) for v in values[1:]))
            call.meta["val"] = parts
            got = [self._make(operator.getitem, (call, i), v) for i, v in enumerate(parts)]
            lasts.append(got[1:])
            source = got[0]
            if self._how.dropout and not last_layer:
                arguments = (source, self._how.dropout, False)
                source = self._make(aten.dropout.default, arguments, values[0])
        together = [source]
        for kind, states in enumerate(zip(*lasts, strict=True)):
            joined = states[0]
            if len(states) > 1:
                joined = self._make(aten.cat.default, (list(states), 0), values[1 + kind])
            together.append(joined)
        hand_over(self._node, together)

    def _call(self, source: Node, number: int, layer: tuple[Direction, ...]) -> Node:
        args = list(self._node.args)
        states = list(self._states(number, layer))
        weights = [weight for direction in layer for weight in _weights(direction)]
        several = isinstance(args[1], (list, tuple))
        args[:6] = [source, states if several else states[0], weights, args[HAS_BIASES], 1, 0.0]
        target: Any = self._node.target
        call = self._graph.call_function(target, tuple(args))
        call.meta = dict(self._node.meta)
        return call

    def _states(self, number: int, layer: tuple[Direction, ...]) -> Iterator[Any]:
        """The initial states of one layer."""
        made: dict[Any, Node] = {}
        for kind, state in enumerate(self._how.states):
            projects = kind == 1 and layer[0].project is not None
            if self._zero[kind]:
                if projects not in made:
                    made[projects] = self._zeros(layer, projects, self._node.meta["val"][1 + kind])
                yield made[projects]
            elif len(self._how.layers) == 1:
                yield state
            else:
                ways = len(layer)
                value = self._first(self._node.meta["val"][1 + kind], ways)
                first = number * ways
                yield self._make(aten.slice.Tensor, (state, 0, first, first + ways), value)

    def _zeros(self, layer: tuple[Direction, ...], projects: bool, value: Any) -> Node:
        """A state of zeros, (directions, batch, width), whose width is that of the weights'
        columns.
        """
        dim = 0 if self._how.batch_first else 1
        size = self._how.source.meta["val"].shape[dim]
        batch = self._make(aten.sym_size.int, (self._how.source, dim), size)
        shape = [batch, value.shape[-1]]
        width = [d.project if projects else d.recur for d in layer]
        each = value.new_empty(value.shape[1:])
        rows = [self._make(aten.new_zeros.default, (weight, shape), each) for weight in width]
        return self._make(aten.stack.default, (rows,), self._first(value, len(rows)))

    def _first(self, value: Any, ways: int) -> Any:
        """A state of all layers as that of one."""
        return value.new_empty((ways, *value.shape[1:]))

    def _make(self, target: Any, args: tuple[Any, ...], value: Any) -> Node:
        node = self._graph.call_function(target, args)
        stack = self._node.meta.get("nn_module_stack")
        node.meta = {"val": value} | ({"nn_module_stack": stack} if stack else {})
        return node


def _weights(direction: Direction) -> list[Any]:
    """A direction's tensors in the order in which the operator takes them."""
    projection = [] if direction.project is None else [direction.project]
    return [direction.read, direction.recur, *direction.biases, *projection]
