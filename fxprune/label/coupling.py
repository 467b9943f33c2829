"""Solve what the rules recorded: connected components are channels, equal sites make a channel
group.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch.fx import GraphModule, Node

from fxprune.label.groups import Analysis, ChannelGroup, Pinned
from fxprune.label.propagation import Propagation
from fxprune.rules.labels import FIXED, Value, distinct, narrow_constant, squash
from fxprune.rules.recorder import Consumer, Recorder


@dataclass(frozen=True)
class Coupling:
    """A solution of the recorded facts.

    Attributes:
        analysis: its channel groups; without costs.
        label: one label per channel id, to record more facts about that channel.
    """

    analysis: Analysis
    label: np.ndarray


def solve(module: GraphModule, run: Propagation, batch: int) -> Coupling:
    """Channels are connected components of the recorded unions; equal sites make a group."""
    record = run.record
    component = _components(record)
    reasons: dict[int, str] = {int(component[FIXED]): "fixed"}
    for labels, reason in record.pins:
        for c in np.unique(component[labels.numpy()]).tolist():
            reasons.setdefault(c, reason)
    groups, dropped = _group(_sites(record, component, reasons), record, component)
    reasons |= dropped
    ids = np.zeros(component.max() + 1, dtype=np.int64)
    numbered, number = [], 1
    for blocks, members in groups:
        ids[blocks] = np.arange(number, number + blocks.size).reshape(blocks.shape)
        number += blocks.size
        numbered.append((ids[blocks], members))
    relabel = ids[component]
    axes = {key: relabel[held.labels.numpy()] for key, held in record.axes.items()}
    values = {k: _relabeled(v, relabel) for k, v in run.values.items()}
    consumers = tuple(record.consumers)
    pinned = tuple(
        Pinned(
            name,
            axis,
            held.labels.numel(),
            _reason(component[held.labels.numpy().reshape(-1)], reasons),
        )
        for (name, axis), held in record.axes.items()
        if (axes[(name, axis)] == 0).any() and not _is_kernel(held, component, reasons)
    )
    label = np.zeros(number, dtype=np.int64)
    # Written backwards so that the lowest label of each channel stays.
    label[relabel[::-1]] = np.arange(len(relabel))[::-1]
    analysis = Analysis(
        values,
        axes,
        _named(numbered, axes, consumers),
        pinned,
        consumers,
        _foldable(module, consumers),
        (),
        batch,
    )
    return Coupling(analysis, label)


def _components(record: Recorder) -> np.ndarray:
    """Component of every label, numbered by its lowest label."""
    pairs = torch.cat(record.edges).numpy() if record.edges else np.zeros((0, 2), dtype=np.int64)
    size = record.next_label
    # Before SciPy 1.13, csgraph takes 32-bit indices only.
    rows, columns = pairs.astype(np.int32).T
    matrix = coo_array((np.ones(len(pairs), dtype=np.int8), (rows, columns)), shape=(size, size))
    component: np.ndarray = connected_components(matrix, directed=False)[1]
    return component


Sites = tuple[tuple[str, int], ...]


def _sites(
    record: Recorder, component: np.ndarray, reasons: dict[int, str]
) -> dict[Sites, list[int]]:
    """Free components by the weight axes that hold them, as often as they hold them."""
    found = [
        np.unique(component[held.labels.numpy().reshape(-1)], return_counts=True)
        for held in record.axes.values()
    ]
    names = list(record.axes)
    held_by = (
        np.concatenate([present for present, _ in found]) if found else np.zeros(0, dtype=np.int64)
    )
    place = np.repeat(np.arange(len(found)), [len(present) for present, _ in found])
    times = np.concatenate([counts for _, counts in found]) if found else held_by
    order = np.argsort(held_by, kind="stable")
    table = np.stack([place[order], times[order]], 1)
    components, starts = np.unique(held_by[order], return_index=True)
    held, row = table.tobytes(), table.dtype.itemsize * 2
    keys: dict[bytes, list[int]] = defaultdict(list)
    for c, start, end in zip(
        components.tolist(), starts.tolist(), [*starts[1:].tolist(), len(table)], strict=True
    ):
        if c not in reasons:
            keys[held[start * row : end * row]].append(c)
    sites = {key: np.frombuffer(key, table.dtype).reshape(-1, 2).tolist() for key in keys}
    return {
        tuple(names[i] for i, n in sites[key] for _ in range(n)): members
        for key, members in keys.items()
    }


def _named(
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


def _is_kernel(held: Any, component: np.ndarray, reasons: dict[int, str]) -> bool:
    first = reasons.get(int(component[held.labels.numpy().reshape(-1)[0]]), "")
    return first.startswith("kernel positions")


def _reason(components: np.ndarray, reasons: dict[int, str]) -> str:
    for c in components:
        if int(c) in reasons:
            return reasons[int(c)]
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


def _group(
    keys: dict[Sites, list[int]], record: Recorder, component: np.ndarray
) -> tuple[list[tuple[np.ndarray, Sites]], dict[int, str]]:
    """Split components with equal sites into blocks of equal size; groups that share a block
    structure are one.
    """
    home: dict[int, int] = {}
    for index, members in enumerate(keys.values()):
        home.update(dict.fromkeys(members, index))
    dropped: dict[int, str] = {}
    # Block index of every component: the refinement of all block structures it takes part in.
    block: dict[int, tuple[int, ...]] = dict.fromkeys(home, ())
    links: list[tuple[int, int]] = []
    for number, (labels, strict) in enumerate(record.blocks):
        met = np.unique(component[distinct(labels)]).tolist()
        present = {home[c] for c in met if c in home}
        if not present:
            continue
        rows = component[labels.numpy()]
        if not strict and (rows == rows[:, :1]).all():
            continue
        if any(c not in home for c in met):
            # Fixed channels share the blocks: counts stay equal only if nothing is removed.
            dropped.update(
                (c, "shares its blocks with channels that stay") for c in met if c in home
            )
            continue
        rowwise: dict[int, set[int]] = defaultdict(set)
        for i, row in enumerate(rows):
            for c in row.tolist():
                rowwise[c].add(i)
        split = {frozenset(v) for v in rowwise.values()}
        if all(len(s) == len(rows) for s in split):
            continue
        first = min(present)
        links += [(first, other) for other in present]
        signatures = {s: i for i, s in enumerate(sorted(split, key=sorted))}
        for c, s in rowwise.items():
            block[c] = (*block[c], number, signatures[frozenset(s)])
    matrix = np.arange(len(keys))
    for a, b in links:
        matrix[matrix == matrix[b]] = matrix[a]
    places = list(keys)
    result = []
    for root in np.unique(matrix):
        parts = [i for i in range(len(keys)) if matrix[i] == root]
        held = tuple(dict.fromkeys(site for i in parts for site in places[i]))
        chosen = [c for i in parts for c in keys[places[i]]]
        if any(c in dropped for c in chosen):
            dropped.update(dict.fromkeys(chosen, "shares its blocks with channels that stay"))
            continue
        table: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i in parts:
            for c in keys[places[i]]:
                table[(i, *block[c])].append(c)
        sizes = {len(v) for v in table.values()}
        if len(sizes) != 1:
            dropped.update(dict.fromkeys(chosen, "its block structures do not nest"))
            continue
        if sizes == {1}:
            reason = (
                "one indivisible channel"
                if len(table) == 1
                else "its block structures leave one channel per block"
            )
            dropped.update(dict.fromkeys(chosen, reason))
            continue
        result.append((np.array(list(table.values())), held))
    return result, dropped


def _relabeled(value: Any, relabel: np.ndarray) -> Any:
    if isinstance(value, tuple):
        return tuple(_relabeled(v, relabel) for v in value)
    if not isinstance(value, Value):
        return value
    axes = []
    for labels in value.axes:
        if relabel[distinct(labels)].any():
            axes.append(
                squash(
                    torch.from_numpy(relabel[narrow_constant(labels).numpy()]).expand(labels.shape)
                )
            )
    return replace(value, axes=tuple(axes))


def _foldable(module: GraphModule, consumers: tuple[Consumer, ...]) -> frozenset[tuple[str, int]]:
    """Weight axes that every use of the weight contracts."""
    found: dict[tuple[str, int], set[str]] = defaultdict(set)
    for consumer in consumers:
        found[(consumer.parameter, consumer.axis)].add(consumer.node)
    uses: dict[str, set[str]] = defaultdict(set)
    for node in module.graph.nodes:
        if node.op == "get_attr":
            uses[str(node.target)] |= _terminal_uses(node)
    return frozenset(key for key, nodes in found.items() if uses[key[0]] == nodes)


def _terminal_uses(node: Node) -> set[str]:
    """Names of the calls that read a weight, looking through views of it."""
    found = set()
    for user in node.users:
        name = str(user.target)
        if name.startswith(
            ("aten.t.", "aten.transpose", "aten.permute", "aten.numpy_T", "aten.mT")
        ):
            found |= _terminal_uses(user)
        else:
            found.add(user.name)
    return found
