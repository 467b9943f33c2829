"""Recurrent layers: a hidden unit is a row of every gate, of all weights and biases, and a column
of what reads it: of the layer's own weight of the state, and of every reader of its outputs.

A unit whose rows are zero stays at zero from step to step, in each of the four kinds: its state is
an average of itself and of a candidate that is zero.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fxprune.graph.operators import operator_name
from fxprune.graph.recurrent import GATES, Direction, read_recurrent
from fxprune.rules.contraction import consume, only_axis
from fxprune.rules.labels import FIXED, Value, squash, varying, vector
from fxprune.rules.recorder import Consumer
from fxprune.rules.registry import Call, register_rule

Labels = Sequence[Tensor | None]
"""Per direction the labels of its channels, (width,); None where they stay."""


@register_rule(*GATES)
def recurrent(call: Call) -> Any:
    """One layer in one direction or both; of the two as many units stay."""
    how = None if call.kwargs else read_recurrent(operator_name(call.target), call.args)
    weights = [] if how is None else [w for d in how.layers[0] for w in (d.read, d.recur)]
    plain = all(weight.parameter is not None for weight in weights)
    if how is None or len(how.layers) > 1 or how.source.rank != 3 or not plain:
        raise NotImplementedError
    layer = how.layers[0]
    _read(call, how.source, layer)
    units = [_units(call, direction, how.gates) for direction in layer]
    outputs = [_outputs(call, d, own) for d, own in zip(layer, units, strict=True)]
    first = 0
    for direction, own in zip(layer, outputs, strict=True):
        _recur(call, direction, own, first)
        first += direction.recur.shape[1]
    _keep_alike(call, outputs)
    # The states are the outputs, and of an LSTM the units.
    kinds = [outputs, units][: len(how.states)]
    for state, labels in zip(how.states, kinds, strict=True):
        _meet_state(call, state, labels)
    result: Value = call.out[0]
    side_by_side = _joined(outputs, [d.recur.shape[1] for d in layer])
    axes = () if side_by_side is None else (side_by_side.expand(result.shape),)
    lasts = [
        replace(out, axes=() if (a := _of_state(labels, out)) is None else (squash(a),))
        for out, labels in zip(call.out[1:], kinds, strict=True)
    ]
    return (replace(result, axes=axes), *lasts)


def _read(call: Call, source: Value, layer: Sequence[Direction]) -> None:
    """Both directions contract the input's last axis."""
    last = source.rank - 1
    read, rest = only_axis(call, source, last)
    for labels in rest:
        call.record.pin(labels, "a recurrent layer takes its channels for steps or examples")
    for direction in layer:
        kept, _ = only_axis(call, direction.read, 1)
        flat = None if read is None else vector(read, last)
        own = None if kept is None else vector(kept, 1)
        consume(call, source, last, flat, direction.read, own)


def _units(call: Call, direction: Direction, gates: int) -> Tensor | None:
    """Labels of the hidden units, (hidden,), which are rows of every gate; None where they stay."""
    found = []
    for value in (direction.read, direction.recur, *direction.biases):
        labels, _ = only_axis(call, value, 0)
        if labels is not None:
            rows = vector(labels, 0).view(gates, -1)
            call.record.unite(rows, rows[:1])
            found.append(rows[0])
    whole = len(found) == 2 + len(direction.biases)
    reason = "" if whole else "meets a tensor that is not produced by a weight"
    if whole and direction.project is not None:
        # torch tells a projection by it: as many units as outputs would be read as none.
        reason = "is projected: there must be more units than outputs"
    elif whole and len(found[0]) == 1:
        reason = "is the only unit of a recurrent layer"
    for labels in found:
        call.record.unite(labels, found[0])
        if reason:
            call.record.pin(labels, reason)
    return None if reason else found[0]


def _outputs(call: Call, direction: Direction, units: Tensor | None) -> Tensor | None:
    """Labels of what the layer gives: its units, or what these are projected to, whose columns
    they are.
    """
    if direction.project is None:
        return units
    kept, _ = only_axis(call, direction.project, 1)
    made, _ = only_axis(call, direction.project, 0)
    if kept is not None:
        columns = vector(kept, 1)
        if units is None:
            call.record.pin(columns, "reads channels that stay")
        else:
            call.record.unite(columns, units)
    return None if made is None else vector(made, 0)


def _recur(call: Call, direction: Direction, outputs: Tensor | None, first: int) -> None:
    """The weight of the state reads what the layer gave one step before, which begins there."""
    weight: Value = direction.recur
    kept, _ = only_axis(call, weight, 1)
    if kept is None or outputs is None:
        for labels in (kept, outputs):
            if labels is not None:
                call.record.pin(labels, "reads channels that stay")
        return
    call.record.unite(outputs, vector(kept, 1))
    assert weight.parameter is not None
    name = call.node.name
    call.record.consumers.append(Consumer(name, name, -1, weight.parameter, 1, first=first))


def _keep_alike(call: Call, labels: Labels) -> None:
    """Both directions keep as many channels: their states are one tensor."""
    known = [own for own in labels if own is not None]
    if len(known) < len(labels):
        for own in known:
            call.record.pin(own, "the other direction's channels stay")
    elif len(known) > 1:
        call.record.block(torch.stack(known))


def _meet_state(call: Call, state: Value, labels: Labels) -> None:
    """An initial state, (directions, batch, width), has the labels of the layer; one of fixed width
    pins them.
    """
    wanted, last = _of_state(labels, state), state.rank - 1
    along = [a for a in state.axes if last in varying(a)]
    for own in state.axes:
        if last not in varying(own) or not varying(own) <= {0, last} or wanted is None:
            call.record.pin(own, "is the initial state of a recurrent layer")
    if wanted is None:
        return
    if len(along) == 1:
        call.record.unite(along[0], wanted)
    else:
        for own in (wanted, *along):
            call.record.pin(own, "meets an initial state that keeps its width")


def _of_state(labels: Labels, state: Value) -> Tensor | None:
    """Labels of a state, (directions, batch, width); None where one direction has none."""
    known = [own for own in labels if own is not None]
    if len(known) < len(labels) or not known or state.shape[-1] == 1:
        return None
    shape = [1] * state.rank
    shape[0], shape[-1] = len(known), len(known[0])
    return torch.stack(known).view(shape).expand(state.shape)


def _joined(labels: Labels, widths: Sequence[int]) -> Tensor | None:
    """The directions' labels side by side; None where all stay."""
    if all(own is None for own in labels):
        return None
    pairs = zip(labels, widths, strict=True)
    return torch.cat([torch.full((n,), FIXED) if own is None else own for own, n in pairs])
