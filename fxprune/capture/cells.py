"""Recurrent cells, which a model runs step by step in a loop of its own, become the products and
gates that they consist of, so that their units are channels like any other.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from fxprune.graph.nodes import hand_over
from fxprune.graph.operators import operator_name

aten = torch.ops.aten


def open_cells(module: GraphModule) -> None:
    """Put the calls that a recurrent cell consists of in its place.

    The gates are those of `torch.nn.GRUCell`, `LSTMCell` and `RNNCell`, so that what comes of it is
    the cell's result to rounding.
    """
    cells = [n for n in module.graph.nodes if n.op == "call_function" and _builder(n) is not None]
    for node in cells:
        builder = _builder(node)
        assert builder is not None
        with module.graph.inserting_before(node):
            result = builder(_Building(node), *node.args)
        hand_over(node, result)
    if cells:
        module.graph.eliminate_dead_code()
        module.recompile()


def _builder(node: Node) -> Callable[..., Any] | None:
    if node.kwargs or any(
        isinstance(node.meta.get("val"), tuple) and user.target is not operator.getitem
        for user in node.users
    ):
        return None
    return CELLS.get(operator_name(node.target))


class _Building:
    """The calls of one cell.

    Args:
        node: the cell's call, before which they are inserted.
    """

    def __init__(self, node: Node):
        self._node = node

    def gru(self, x: Node, state: Node, *weights: Any) -> Node:
        """n + z (h - n) with n = tanh(W_n x + r (U_n h)); gates r, z, n."""
        read, recur = self._products(x, state, weights)
        from_x, from_h = self._chunks(read, 3), self._chunks(recur, 3)
        reset, update = (
            self._call(aten.sigmoid.default, self._call(aten.add.Tensor, a, b))
            for a, b in zip(from_x[:2], from_h[:2], strict=True)
        )
        kept = self._call(aten.mul.Tensor, reset, from_h[2])
        new = self._call(aten.tanh.default, self._call(aten.add.Tensor, from_x[2], kept))
        moved = self._call(aten.mul.Tensor, update, self._call(aten.sub.Tensor, state, new))
        return self._call(aten.add.Tensor, new, moved)

    def lstm(self, x: Node, states: Any, *weights: Any) -> tuple[Node, Node]:
        """c' = f c + i g and h' = o tanh(c'); gates i, f, g, o."""
        read, recur = self._products(x, states[0], weights)
        parts = self._chunks(self._call(aten.add.Tensor, read, recur), 4)
        enter, forget, leave = (self._call(aten.sigmoid.default, parts[i]) for i in (0, 1, 3))
        new = self._call(aten.mul.Tensor, enter, self._call(aten.tanh.default, parts[2]))
        cell = self._call(aten.add.Tensor, self._call(aten.mul.Tensor, forget, states[1]), new)
        return self._call(aten.mul.Tensor, leave, self._call(aten.tanh.default, cell)), cell

    def tanh(self, x: Node, state: Node, *weights: Any) -> Node:
        """tanh of W x + U h."""
        read, recur = self._products(x, state, weights)
        return self._call(aten.tanh.default, self._call(aten.add.Tensor, read, recur))

    def relu(self, x: Node, state: Node, *weights: Any) -> Node:
        """relu of W x + U h."""
        read, recur = self._products(x, state, weights)
        return self._call(aten.relu.default, self._call(aten.add.Tensor, read, recur))

    def _products(self, x: Node, state: Node, weights: tuple[Any, ...]) -> tuple[Node, Node]:
        """W x + b and U h + c."""
        read, recur, *biases = (*weights, None, None)[:4]
        return (
            self._call(aten.linear.default, x, read, biases[0]),
            self._call(aten.linear.default, state, recur, biases[1]),
        )

    def _chunks(self, node: Node, number: int) -> list[Node]:
        chunks = self._call(aten.chunk.default, node, number, 1)
        return [self._call(operator.getitem, chunks, place) for place in range(number)]

    def _call(self, target: Any, *args: Any) -> Node:
        node = self._node.graph.call_function(target, args)
        values = map_arg(args, lambda n: n.meta["val"])
        stack = self._node.meta.get("nn_module_stack")
        node.meta = {"val": target(*values)} | ({"nn_module_stack": stack} if stack else {})
        return node


CELLS: dict[str, Callable[..., Any]] = {
    "aten.gru_cell": _Building.gru,
    "aten.lstm_cell": _Building.lstm,
    "aten.rnn_tanh_cell": _Building.tanh,
    "aten.rnn_relu_cell": _Building.relu,
}
"""How each cell is built from its arguments."""
