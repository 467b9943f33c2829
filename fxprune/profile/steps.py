r"""A recurrent layer step by step, in torch's own equations (`torch.nn.GRU`, `LSTM`, `RNN`): what
its weights give can be looked at here, which torch's one operator keeps to itself.

With W x_t + b from the input and U h_{t-1} + c from the state, and the gates in torch's order:
RNN h_t = f(W x_t + b + U h_{t-1} + c); GRU n = tanh(W_n x_t + b_n + r (U_n h_{t-1} + c_n)),
h_t = n + z (h_{t-1} - n); LSTM c_t = f c_{t-1} + i g, h_t = P (o tanh c_t).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fxprune.graph.recurrent import Direction, Recurrent

Given = list[tuple[Tensor, Tensor]]
"""Weights, and what each gave: (..., gates x hidden) of some steps."""


def run_steps(how: Recurrent) -> tuple[tuple[Tensor, ...], Given]:
    """Run the one layer of a call.

    Args:
        how: its arguments; tensors.

    Returns:
        what the operator returns, and what every weight of an input or a state gave.
    """
    source = how.source.transpose(0, 1) if how.batch_first else how.source
    given: Given = []
    outputs, lasts = [], []
    for number, direction in enumerate(how.layers[0]):
        states = [state[number] for state in how.states]
        steps = source.flip(0) if number else source
        output, last = _run_direction(how, direction, steps, states, given)
        outputs.append(output.flip(0) if number else output)
        lasts.append(last)
    result = torch.cat(outputs, -1)
    ends = [torch.stack(kind) for kind in zip(*lasts, strict=True)]
    return (result.transpose(0, 1) if how.batch_first else result, *ends), given


def _run_direction(
    how: Recurrent, weights: Direction, source: Tensor, states: list[Tensor], given: Given
) -> tuple[Tensor, list[Tensor]]:
    """Outputs (time, batch, width) and last states of one direction; notes what weights gave."""
    first, second = weights.biases or (None, None)
    read = F.linear(source, weights.read, first)
    given.append((weights.read, read))
    outputs = []
    for step in read:
        recurred = F.linear(states[0], weights.recur, second)
        given.append((weights.recur, recurred))
        states = _step(how, step, recurred, states)
        if weights.project is not None:
            states = [F.linear(states[0], weights.project), *states[1:]]
        outputs.append(states[0])
    return torch.stack(outputs), states


def _step(how: Recurrent, read: Tensor, recurred: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
    """The states after one step, unprojected."""
    own, back = read.chunk(how.gates, -1), recurred.chunk(how.gates, -1)
    if how.operator == "aten.gru":
        reset, update = torch.sigmoid(own[0] + back[0]), torch.sigmoid(own[1] + back[1])
        new = torch.tanh(own[2] + reset * back[2])
        return [new + update * (states[0] - new)]
    if how.operator == "aten.lstm":
        enter, forget, cell, leave = (a + b for a, b in zip(own, back, strict=True))
        cells = torch.sigmoid(forget) * states[1] + torch.sigmoid(enter) * torch.tanh(cell)
        return [torch.sigmoid(leave) * torch.tanh(cells), cells]
    total = own[0] + back[0]
    return [torch.relu(total) if how.operator == "aten.rnn_relu" else torch.tanh(total)]
