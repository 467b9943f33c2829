"""Solve what the rules recorded: connected components are channels, equal sites make a channel
group.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule, Node

from fxprune.graph.operators import operator_name
from fxprune.graph.tensors import is_made
from fxprune.label.blocks import Sites, divide
from fxprune.label.groups import Analysis, ChannelGroup, Pinned
from fxprune.label.propagation import Propagation
from fxprune.label.sides import components, find_sides
from fxprune.rules.labels import FIXED, Value, distinct, narrow_constant, squash
from fxprune.rules.recorder import Consumer, Recorder

TURNED = frozenset({"aten.t", "aten.transpose", "aten.permute", "aten.numpy_T", "aten.mT"})
SHAPE_ONLY = frozenset({"aten.zeros_like", "aten.ones_like", "aten.new_zeros", "aten.sym_size"})
"""Operators that read no element of their argument."""


@dataclass(frozen=True)
class Coupling:
    """A solution of the recorded facts.

    Attributes:
        analysis: its channel groups; without costs.
        label: one label per channel id, to record more facts about that channel.
        id_of: the channel id of every label.
    """

    analysis: Analysis
    label: np.ndarray
    id_of: np.ndarray


def solve(module: GraphModule, run: Propagation, batch: int) -> Coupling:
    """Channels are connected components of the recorded unions; equal sites make a group.

    Args:
        module: the captured graph.
        run: of it, with what the rules recorded.
        batch: examples in the traced batch.
    """
    record = run.record
    component = components(record.edges, record.next_label)
    reasons = _pin_reasons(record, component)
    chosen, dropped = divide(_sites(record, component, reasons), record.blocks, component)
    reasons |= dropped
    ids, numbered = _number(chosen, component)
    id_of = ids[component]
    axes = {key: id_of[axis.labels.numpy()] for key, axis in record.axes.items()}
    consumers = tuple(record.consumers)
    analysis = Analysis(
        values={name: _relabel(value, id_of) for name, value in run.values.items()},
        axes=axes,
        groups=_name_groups(numbered, axes, consumers),
        pinned=_pinned(record, axes, component, reasons),
        consumers=consumers,
        foldable=_foldable(module, consumers),
        costs=(),
        batch=batch,
        sides=find_sides(record),
    )
    label = np.zeros(int(ids.max()) + 1, dtype=np.int64)
    # Written backwards so that the lowest label of each channel stays.
    label[id_of[::-1]] = np.arange(len(id_of))[::-1]
    return Coupling(analysis, label, id_of)


def _pin_reasons(record: Recorder, component: np.ndarray) -> dict[int, str]:
    """Why components stay, the first reason of each."""
    reasons: dict[int, str] = {int(component[FIXED]): "fixed"}
    for labels, reason in record.pins:
        for c in np.unique(component[labels.numpy()]).tolist():
            reasons.setdefault(c, reason)
    return reasons


def _sites(
    record: Recorder, component: np.ndarray, reasons: dict[int, str]
) -> dict[Sites, list[int]]:
    """Free components by the weight axes that hold them, as often as they hold them."""
    if not record.axes:
        return {}
    counted = [
        np.unique(component[axis.labels.numpy().reshape(-1)], return_counts=True)
        for axis in record.axes.values()
    ]
    held = np.concatenate([components for components, _ in counted])
    place = np.repeat(np.arange(len(counted)), [len(components) for components, _ in counted])
    times = np.concatenate([counts for _, counts in counted])
    # One run of (axis, times) rows per component; its bytes tell equal runs fastest.
    order = np.argsort(held, kind="stable")
    table = np.stack([place[order], times[order]], 1)
    components, starts = np.unique(held[order], return_index=True)
    text, row = table.tobytes(), table.dtype.itemsize * 2
    members: dict[bytes, list[int]] = defaultdict(list)
    for c, start, end in zip(
        components.tolist(), starts.tolist(), [*starts[1:].tolist(), len(table)], strict=True
    ):
        if c not in reasons:
            members[text[start * row : end * row]].append(c)
    names = list(record.axes)
    sites = {key: np.frombuffer(key, table.dtype).reshape(-1, 2).tolist() for key in members}
    return {
        tuple(names[i] for i, count in sites[key] for _ in range(count)): channels
        for key, channels in members.items()
    }


def _number(
    chosen: list[tuple[np.ndarray, Sites]], component: np.ndarray
) -> tuple[np.ndarray, list[tuple[np.ndarray, Sites]]]:
    """Channel id of every component, from 1 on in the order of the groups and 0 for what stays; and
    the groups by ids.
    """
    ids = np.zeros(component.max() + 1, dtype=np.int64)
    numbered, number = [], 1
    for blocks, sites in chosen:
        ids[blocks] = np.arange(number, number + blocks.size).reshape(blocks.shape)
        number += blocks.size
        numbered.append((ids[blocks], sites))
    return ids, numbered


def _name_groups(
    numbered: list[tuple[np.ndarray, Sites]],
    axes: dict[tuple[str, int], np.ndarray],
    consumers: tuple[Consumer, ...],
) -> tuple[ChannelGroup, ...]:
    """Groups with their names and the calls that read them."""
    owner = np.full(max((int(b.max()) for b, _ in numbered), default=0) + 1, -1)
    for i, (blocks, _) in enumerate(numbered):
        owner[blocks] = i
    reading: list[list[Consumer]] = [[] for _ in numbered]
    for consumer in consumers:
        for i in np.unique(owner[axes[(consumer.parameter, consumer.axis)]]).tolist():
            if i >= 0:
                reading[i].append(consumer)
    names: set[str] = set()
    final = []
    for (blocks, members), readers in zip(numbered, reading, strict=True):
        read = {(c.parameter, c.axis) for c in readers}
        made = tuple(m for m in members if m not in read) or members
        final.append(ChannelGroup(_group_name(made, names), blocks, made, tuple(readers)))
    return tuple(final)


def _pinned(
    record: Recorder,
    axes: dict[tuple[str, int], np.ndarray],
    component: np.ndarray,
    reasons: dict[int, str],
) -> tuple[Pinned, ...]:
    """Weight axes of which something stays; a convolution's kernel axes go without saying."""
    pinned = []
    for (name, axis), made in record.axes.items():
        if not (axes[name, axis] == 0).any():
            continue
        components = component[made.labels.numpy().reshape(-1)]
        if not reasons.get(int(components[0]), "").startswith("kernel positions"):
            reason = _first_reason(components, reasons)
            pinned.append(Pinned(name, axis, made.labels.numel(), reason))
    return tuple(pinned)


def _first_reason(components: np.ndarray, reasons: dict[int, str]) -> str:
    for c in components.tolist():
        if c in reasons:
            return reasons[c]
    return "no other tensor depends on it"


def _group_name(members: tuple[tuple[str, int], ...], taken: set[str]) -> str:
    """The module that produces the channels; a number is added where it produces several groups."""
    weights = [m for m in members if m[0].endswith("weight")] or list(members)
    base = weights[0][0].rpartition(".")[0] or weights[0][0]
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}#{count}"
    taken.add(name)
    return name


def _relabel(value: Any, id_of: np.ndarray) -> Any:
    """A value with channel ids for labels; label tensors of channels that stay are dropped."""
    if isinstance(value, tuple):
        return tuple(_relabel(v, id_of) for v in value)
    if not isinstance(value, Value):
        return value
    axes = []
    for labels in value.axes:
        if id_of[distinct(labels)].any():
            ids = torch.from_numpy(id_of[narrow_constant(labels).numpy()])
            axes.append(squash(ids.expand(labels.shape)))
    return replace(value, axes=tuple(axes))


def _foldable(module: GraphModule, consumers: tuple[Consumer, ...]) -> frozenset[tuple[str, int]]:
    """Weight axes that every use of the weight contracts; no module owns the weights that a
    forward makes, so that nothing can be folded into them.
    """
    contractions: dict[tuple[str, int], set[str]] = defaultdict(set)
    for consumer in consumers:
        contractions[(consumer.parameter, consumer.axis)].add(consumer.node)
    uses: dict[str, set[str]] = defaultdict(set)
    for node in module.graph.nodes:
        if node.op == "get_attr":
            uses[str(node.target)] |= _terminal_uses(node)
    return frozenset(
        key for key, nodes in contractions.items() if uses[key[0]] == nodes and not is_made(key[0])
    )


def _terminal_uses(node: Node) -> set[str]:
    """Names of the calls that read a weight, looking through views of it; who reads its shape only
    is none.
    """
    uses = set()
    for user in node.users:
        name = operator_name(user.target)
        if name in SHAPE_ONLY:
            continue
        if name in TURNED:
            uses |= _terminal_uses(user)
        else:
            uses.add(user.name)
    return uses
