"""What a recurrent layer is and how its arguments are read: the one place that knows.

torch's operators take all weights of a layer as one list, direction after direction: the weight of
the input (gates x hidden, inputs), that of the state (gates x hidden, outputs), a bias of each, and
where an LSTM projects its units the projection (outputs, hidden). The rows of a weight hold the
gates one after the other, each with a row per hidden unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from fxprune.graph.operators import operator_name

GATES = {"aten.gru": 3, "aten.lstm": 4, "aten.rnn_tanh": 1, "aten.rnn_relu": 1}
"""Recurrent operators, and how many gates each has."""
STATE, WEIGHTS, HAS_BIASES, LAYERS, DROPOUT, TRAIN, BOTH_WAYS, BATCH_FIRST = range(1, 9)
"""Positions of the arguments behind the input."""


@dataclass(frozen=True)
class Direction:
    """The weights of one direction of one layer: nodes, or whatever stands for them.

    Attributes:
        read: of the input, (gates x hidden, inputs).
        recur: of the state, (gates x hidden, outputs).
        biases: of both, (gates x hidden,) each, or none.
        project: of the hidden units, (outputs, hidden), or None where they are the outputs.
    """

    read: Any
    recur: Any
    biases: tuple[Any, ...]
    project: Any


@dataclass(frozen=True)
class Recurrent:
    """A recurrent call's arguments.

    Attributes:
        operator: name without the overload.
        gates: blocks of rows of its weights.
        source: the input, (time, batch, inputs) or (batch, time, inputs).
        states: one per kind of state: the outputs' first, then an LSTM's cells; (layers x
            directions, batch, width) each.
        layers: per layer its directions.
        dropout: between layers, in training.
        batch_first: whether the batch comes before the time.
    """

    operator: str
    gates: int
    source: Any
    states: tuple[Any, ...]
    layers: tuple[tuple[Direction, ...], ...]
    dropout: float
    batch_first: bool


def recurrent_of(node: Node) -> Recurrent | None:
    """The recurrent layers that a call runs, or None: those over packed sequences are none."""
    if node.op != "call_function" or getattr(node.target, "_overloadname", "") != "input":
        return None
    return None if node.kwargs else read_recurrent(operator_name(node.target), node.args)


def read_recurrent(operator: str, args: Sequence[Any]) -> Recurrent | None:
    """The recurrent layers that an operator runs on these arguments, or None where it is none.

    Args:
        operator: name without the overload.
        args: of the call; tensors may be nodes, tensors or whatever stands for them.
    """
    gates = GATES.get(operator)
    if gates is None or len(args) <= BATCH_FIRST or args[TRAIN]:
        return None
    state, weights = args[STATE], list(args[WEIGHTS])
    states = tuple(state) if isinstance(state, (list, tuple)) else (state,)
    count = args[LAYERS] * (2 if args[BOTH_WAYS] else 1)
    biases = 2 if args[HAS_BIASES] else 0
    each = len(weights) // count
    if len(weights) != each * count or each not in (2 + biases, 3 + biases):
        return None
    found = [
        Direction(
            own[0], own[1], tuple(own[2 : 2 + biases]), own[-1] if each == 3 + biases else None
        )
        for own in (weights[at : at + each] for at in range(0, len(weights), each))
    ]
    ways = count // args[LAYERS]
    layers = tuple(tuple(found[at : at + ways]) for at in range(0, count, ways))
    return Recurrent(
        operator, gates, args[0], states, layers, float(args[DROPOUT]), bool(args[BATCH_FIRST])
    )
