"""Recurrent layers are traced by their shapes: torch runs one on symbolic sizes step by step, which
takes a tenth of a second for each, and a trace keeps nothing of that but the shape of the result.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch._subclasses import FakeTensor

LAYERS = ("gru", "lstm", "rnn_tanh", "rnn_relu")
KEYS = (DispatchKey.Autograd, DispatchKey.CompositeImplicitAutograd)
"""Where torch has the steps in Python."""


@contextmanager
def recurrent_by_shapes() -> Iterator[None]:
    """Inside, a recurrent layer on tensors without values gives tensors without values at once."""
    changed: list[tuple[Any, DispatchKey, Callable[..., Any]]] = []
    try:
        for name in LAYERS:
            operator = getattr(torch.ops.aten, name).input
            for key in KEYS:
                if key in operator.py_kernels:
                    stepwise = operator.py_kernels[key]
                    changed.append((operator, key, stepwise))
                    _replace(operator, key, partial(_result, stepwise))
        yield
    finally:
        for operator, key, stepwise in changed:
            _replace(operator, key, stepwise)


def _replace(operator: Any, key: DispatchKey, kernel: Callable[..., Any]) -> None:
    operator.py_kernels[key] = kernel
    operator._dispatch_cache.clear()


def _result(
    stepwise: Callable[..., Any],
    x: Tensor,
    states: Any,
    weights: Any,
    biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    both: bool,
    batch_first: bool,
) -> Any:
    """What torch's operator gives for these arguments, laid out as it lays it out.

    Args:
        stepwise: what computes it.
        x: (steps, examples, channels), or (examples, steps, channels).
        states: hidden ones, (layers x directions, examples, units); of an LSTM a list of both.
        weights, biases, layers, dropout, train, both, batch_first: as the operator takes them.
    """
    if not isinstance(x, FakeTensor):
        return stepwise(x, states, weights, biases, layers, dropout, train, both, batch_first)
    given = list(states) if isinstance(states, (list, tuple)) else [states]
    steps, examples = (x.shape[1], x.shape[0]) if batch_first else x.shape[:2]
    result = x.new_empty([steps, examples, given[0].shape[2] * (2 if both else 1)])
    result = result.transpose(0, 1) if batch_first else result
    return result, *(state.new_empty(state.shape) for state in given)
