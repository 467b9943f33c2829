"""Station 2: run the graph on channel labels and solve for the channels that live or die together."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import networkx as nx
import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils.flop_counter import FlopCounterMode

from fxprune.rules import Call, pointwise, rule_for
from fxprune.rules.labels import FIXED, Value, narrow_constant, squash, varying
from fxprune.rules.recorder import Consumer, Recorder

SMALL_CONSTANT = 1 << 24


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of which a subset is selected together.

    Attributes:
        name: the first weight that produces them.
        blocks: (blocks, size) channel ids; every block keeps the same number (heads, convolution groups).
        members: weight axes that hold the channels, as (parameter, axis).
        consumers: calls that contract them with a weight.
    """

    name: str
    blocks: np.ndarray
    members: tuple[tuple[str, int], ...]
    consumers: tuple[Consumer, ...]

    @property
    def width(self) -> int:
        """Channels per block: what a plan chooses from 1 to this."""
        return int(self.blocks.shape[1])

    @property
    def channels(self) -> int:
        """Channels in all blocks."""
        return int(self.blocks.size)


@dataclass(frozen=True)
class Pinned:
    """A weight axis left alone, and why."""

    parameter: str
    axis: int
    size: int
    reason: str


@dataclass(frozen=True)
class Cost:
    """A contraction's FLOPs: proportional to the channels it produces and those it consumes.

    Attributes:
        node: the call.
        flops: at full width, for one example.
        factors: one channel-id vector per weight-like axis; FLOPs scale with the share of each that is kept.
    """

    node: str
    flops: float
    factors: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Analysis:
    """What label propagation found; channel id 0 is everything that stays.

    Attributes:
        values: per node (or tuple of nodes' results) its `Value` with channel ids for labels.
        axes: channel ids per (parameter, axis), (size,) or (groups, size).
        groups: the channel groups.
        pinned: weight axes left alone.
        consumers: every contraction with a weight.
        foldable: (parameter, axis) that are only ever contracted, so an interpolation may be folded in.
        costs: FLOPs of every contraction.
        batch: examples in the traced batch.
    """

    values: dict[str, Any]
    axes: dict[tuple[str, int], np.ndarray]
    groups: tuple[ChannelGroup, ...]
    pinned: tuple[Pinned, ...]
    consumers: tuple[Consumer, ...]
    foldable: frozenset[tuple[str, int]]
    costs: tuple[Cost, ...]
    batch: int

    def __str__(self) -> str:
        """One line per group: `name: width [x blocks] <- members -> consumers`."""
        lines = []
        for group in self.groups:
            blocks = f" x {len(group.blocks)} blocks" if len(group.blocks) > 1 else ""
            made = " ".join(f"{p}[{a}]" for p, a in group.members)
            read = " ".join(dict.fromkeys(f"{c.parameter}[{c.axis}]" for c in group.consumers)) or "nothing"
            lines.append(f"{group.name}: {group.width}{blocks} | {made} -> {read}")
        return "\n".join(lines)

    def to_networkx(self) -> "nx.Graph[str]":
        """Bipartite coupling graph: group nodes joined to the weight axes that hold their channels."""
        graph: nx.Graph[str] = nx.Graph()
        for group in self.groups:
            graph.add_node(group.name, kind="group", width=group.width, blocks=len(group.blocks))
            for parameter, axis in group.members:
                site = f"{parameter}[{axis}]"
                graph.add_node(site, kind="axis")
                graph.add_edge(group.name, site)
        return graph

    def group_of(self) -> np.ndarray:
        """Index of each channel id's group, -1 for channels that stay; (channels + 1,)."""
        top = max([int(a.max(initial=0)) for a in self.axes.values()] + [int(g.blocks.max()) for g in self.groups] + [0])
        index = np.full(top + 1, -1)
        for i, group in enumerate(self.groups):
            index[group.blocks] = i
        return index


def hint(value: Any) -> Any:
    """A symbolic size as the integer it has under the example."""
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return value.node.hint if value.node.hint is not None else value.node.require_hint()
    return value


def unlabelled(val: Any) -> Any:
    """What a node returns, as `Value`s without labels."""
    if isinstance(val, Tensor):
        return Value(tuple(int(hint(s)) for s in val.shape), val.dtype)
    if isinstance(val, (tuple, list)):
        return tuple(unlabelled(v) for v in val)
    return hint(val)


def attribute(module: torch.nn.Module, name: str) -> Any:
    """A (nested) attribute by its qualified name."""
    for part in name.split("."):
        module = getattr(module, part)
    return module


class Propagation:
    """Executes the graph on labels, node by node."""

    def __init__(self, module: GraphModule, ignore: Callable[[str], bool]):
        self.module, self.ignore = module, ignore
        self.record = Recorder()
        self.values: dict[str, Any] = {}

    def run(self) -> None:
        """Visit every node in order."""
        for node in self.module.graph.nodes:
            self.record.node = _where(node)
            if node.op == "placeholder":
                self.values[node.name] = self.result(node)
            elif node.op == "get_attr":
                self.values[node.name] = self._parameter(node)
            elif node.op == "call_function":
                self.values[node.name] = self._call(node)
            elif node.op == "output":
                self.record.node = "output"
                for value in self._call_values(node):
                    self.record.pin_value(value, "is the model's output")
            else:
                raise NotImplementedError(node.op)

    def _call_values(self, node: Node) -> list[Value]:
        return Call(node, node.target, self._resolve(node.args), {}, None, self.record).values()

    def _resolve(self, item: Any) -> Any:
        if isinstance(item, Node):
            return self.values[item.name]
        if isinstance(item, (tuple, list)):
            return tuple(self._resolve(i) for i in item) if isinstance(item, tuple) else [self._resolve(i) for i in item]
        return item

    def _parameter(self, node: Node) -> Any:
        tensor = attribute(self.module, str(node.target))
        if not isinstance(tensor, Tensor):
            return tensor
        shape = tuple(tensor.shape)
        name = str(node.target)
        if not tensor.is_floating_point():
            return Value(shape, tensor.dtype, const=tensor.detach())
        grouped = _grouped_user(node)
        axes = []
        for axis, size in enumerate(shape):
            if size == 1:
                continue
            groups = grouped if axis == 1 else 1
            axes.append(self.record.axis(name, shape, axis, groups))
        if self.ignore(name):
            for labels in axes:
                self.record.pin(labels, "ignored on request")
        return Value(shape, tensor.dtype, tuple(axes), parameter=name)

    def arguments(self, node: Node) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Operator and arguments of a call."""
        return node.target, node.args, dict(node.kwargs)

    def result(self, node: Node) -> Any:
        """What a node returns, without labels."""
        return unlabelled(node.meta.get("val"))

    def _call(self, node: Node) -> Any:
        target, raw, keywords = self.arguments(node)
        args, kwargs = self._resolve(raw), {k: self._resolve(v) for k, v in keywords.items()}
        out = self.result(node)
        call = Call(node, target, args, kwargs, out, self.record)
        values = call.values()
        if not isinstance(out, (Value, tuple)) or (isinstance(out, tuple) and not any(isinstance(o, Value) for o in out)):
            return out
        if all(v.const is not None for v in values) and _constant_size(out) <= SMALL_CONSTANT and not any(v.axes for v in values):
            computed = _compute(call)
            if computed is not None:
                return replace(out, const=computed)
        if not any(v.axes for v in values) and not _weighted(node):
            return out
        rule = rule_for(target)
        if rule is None and isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags:
            rule = pointwise
        if rule is not None:
            try:
                return rule(call)
            except NotImplementedError:
                pass
        for value in values:
            self.record.pin_value(value, f"enters {node.target}, for which there is no rule")
        return out


def _where(node: Node) -> str:
    """A node for people: the module it came from and its name."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = stack[-1][0] if stack else ""
    path = path.removeprefix("L['self'].") if isinstance(path, str) else ""
    return f"{path or 'model'}: {node.name}"


def _constant_size(out: Any) -> int:
    return int(np.prod(out.shape)) if isinstance(out, Value) else SMALL_CONSTANT + 1


def _compute(call: Call) -> Tensor | None:
    def swap(item: Any) -> Any:
        if isinstance(item, Value):
            return item.const
        if isinstance(item, (tuple, list)):
            return type(item)(swap(i) for i in item)
        return item

    if torch.Tag.nondeterministic_seeded in getattr(call.target, "tags", ()):
        return None
    kwargs = {k: swap(v) for k, v in call.kwargs.items() if k not in ("device", "pin_memory")}
    try:
        result = call.target(*swap(call.args), **kwargs)
    except (RuntimeError, TypeError, IndexError):
        return None
    return result if isinstance(result, Tensor) else None


def _weighted(node: Node) -> bool:
    return any(isinstance(a, Node) and a.op == "get_attr" for a in node.args)


def _grouped_user(node: Node) -> int:
    """Groups of the convolution that alone reads this weight, else 1."""
    users = list(node.users)
    if len({u.args[6] if len(u.args) > 6 else 1 for u in users}) != 1:
        return 1
    user = users[0]
    plain = user.op == "call_function" and str(user.target).startswith(("aten.conv1d", "aten.conv2d", "aten.conv3d"))
    if not plain or user.args[1] is not node or len(user.args) < 7:
        return 1
    groups = user.args[6]
    return groups if isinstance(groups, int) else 1


def analyse(module: GraphModule, batch: int, ignore: Callable[[str], bool] = lambda name: False) -> Analysis:
    """Find the channel groups of a captured graph.

    Args:
        module: output of `capture`.
        batch: examples in the traced batch.
        ignore: parameter names that must keep their shape.
    """
    run = Propagation(module, ignore)
    run.run()
    tied: list[Tensor] = []
    while True:
        analysis, conflict = _solve(module, run, batch, tied)
        if conflict is None:
            return analysis
        tied.append(conflict)


def _solve(module: GraphModule, run: Propagation, batch: int, tied: list[Tensor]) -> tuple[Analysis, Tensor | None]:
    record = run.record
    count = record.next_label
    edges = record.edges + tied
    pairs = torch.cat(edges).numpy() if edges else np.zeros((0, 2), dtype=np.int64)
    matrix = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, component = connected_components(matrix, directed=False)
    reasons: dict[int, str] = {int(component[FIXED]): "fixed"}
    for labels, reason in record.pins:
        for c in np.unique(component[labels.numpy()]):
            reasons.setdefault(int(c), reason)
    sites: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for (name, axis), held in record.axes.items():
        for c, times in zip(*np.unique(component[held.labels.numpy().reshape(-1)], return_counts=True), strict=True):
            sites[int(c)] += [(name, axis)] * (1 if held.labels.dim() == 1 and times == 1 else int(times))
    keys: dict[tuple[tuple[str, int], ...], list[int]] = defaultdict(list)
    for c, places in sites.items():
        if c not in reasons:
            keys[tuple(places)].append(c)
    groups, dropped = _group(keys, record, component, reasons)
    reasons |= dropped
    ids = np.zeros(component.max() + 1, dtype=np.int64)
    number = 1
    numbered = []
    for blocks, members in groups:
        ids[blocks] = np.arange(number, number + blocks.size).reshape(blocks.shape)
        number += blocks.size
        numbered.append((ids[blocks], members))
    relabel = ids[component]
    axes = {key: relabel[held.labels.numpy()] for key, held in record.axes.items()}
    values = {k: _relabelled(v, relabel) for k, v in run.values.items()}
    consumers = tuple(record.consumers)
    foldable = _foldable(module, consumers)
    final = []
    names: set[str] = set()
    for blocks, members in numbered:
        inside = set(np.unique(blocks).tolist())
        reading = tuple(c for c in consumers if inside & set(np.unique(axes[(c.parameter, c.axis)]).tolist()))
        made = tuple(m for m in members if m not in {(c.parameter, c.axis) for c in reading})
        name = _group_name(made or members, names)
        final.append(ChannelGroup(name, blocks, made or members, reading))
    pinned = tuple(
        Pinned(name, axis, held.labels.numel(), _reason(component[held.labels.numpy().reshape(-1)], reasons))
        for (name, axis), held in record.axes.items()
        if (axes[(name, axis)] == 0).any() and not _is_kernel(held, component, reasons)
    )
    costs = _costs(module, values, axes, batch)
    return Analysis(values, axes, tuple(final), pinned, consumers, foldable, costs, batch), None


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
    keys: dict[tuple[tuple[str, int], ...], list[int]], record: Recorder, component: np.ndarray, reasons: dict[int, str]
) -> tuple[list[tuple[np.ndarray, tuple[tuple[str, int], ...]]], dict[int, str]]:
    """Split components with equal sites into blocks of equal size; groups that share a block structure are one."""
    home: dict[int, int] = {}
    for index, members in enumerate(keys.values()):
        home.update(dict.fromkeys(members, index))
    dropped: dict[int, str] = {}
    # Block index of every component: the refinement of all block structures it takes part in.
    block: dict[int, tuple[int, ...]] = {c: () for c in home}
    links: list[tuple[int, int]] = []
    for number, labels in enumerate(record.blocks):
        rows = component[labels.numpy()]
        present = {home[c] for c in np.unique(rows).tolist() if c in home}
        if not present:
            continue
        if any(c not in home for c in np.unique(rows).tolist()):
            # Fixed channels share the blocks: counts stay equal only if nothing is removed.
            for c in np.unique(rows).tolist():
                if c in home:
                    dropped[c] = "shares its blocks with channels that stay"
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
        members = tuple(dict.fromkeys(site for i in parts for site in places[i]))
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
            reason = "one indivisible channel" if len(table) == 1 else "its block structures leave one channel per block"
            dropped.update(dict.fromkeys(chosen, reason))
            continue
        result.append((np.array(list(table.values())), members))
    return result, dropped


def _relabelled(value: Any, relabel: np.ndarray) -> Any:
    if isinstance(value, tuple):
        return tuple(_relabelled(v, relabel) for v in value)
    if not isinstance(value, Value):
        return value
    axes = []
    for labels in value.axes:
        compact = narrow_constant(labels)
        mapped = torch.from_numpy(relabel[compact.numpy()]).expand(labels.shape)
        if bool((mapped != 0).any()):
            axes.append(squash(mapped))
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
        if name.startswith(("aten.t.", "aten.transpose", "aten.permute", "aten.numpy_T", "aten.mT")):
            found |= _terminal_uses(user)
        else:
            found.add(user.name)
    return found


CONTRACTIONS = ("conv", "linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "scaled_dot_product_attention")


def _costs(module: GraphModule, values: dict[str, Any], axes: dict[tuple[str, int], np.ndarray], batch: int) -> tuple[Cost, ...]:
    costs = []
    for node in module.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        if not any(part in node.target._opname for part in CONTRACTIONS):
            continue
        flops = _count(node, values)
        if flops:
            costs.append(Cost(node.name, flops / batch, _factors(node, values, axes)))
    return tuple(costs)


def _count(node: Node, values: dict[str, Any]) -> int:
    """FLOPs of one call at the example's shapes, by torch.utils.flop_counter on the meta device."""

    def swap(item: Any) -> Any:
        if isinstance(item, Node):
            item = values[item.name]
        if isinstance(item, Value):
            return torch.empty(item.shape, dtype=item.dtype, device="meta")
        if isinstance(item, (tuple, list)):
            return type(item)(swap(i) for i in item)
        return item

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        node.target(*swap(tuple(node.args)), **{k: swap(v) for k, v in node.kwargs.items()})  # type: ignore[operator]
    return int(counter.get_total_flops())


def _factors(node: Node, values: dict[str, Any], axes: dict[tuple[str, int], np.ndarray]) -> tuple[np.ndarray, ...]:
    """Channel ids along every axis whose length the call's FLOPs are proportional to."""
    found = []
    operands = [a for a in node.args if isinstance(a, Node)]
    if node.args and isinstance(node.args[1], (list, tuple)):
        operands = [a for a in node.args[1] if isinstance(a, Node)]
    weight = next((o for o in operands if o.op == "get_attr" and len(values[o.name].shape) > 1), None)
    if weight is not None:
        value = values[weight.name]
        for labels in value.axes:
            found.append(narrow_constant(labels).reshape(-1).numpy())
        if "conv" in str(node.target) and value.rank > 2 and value.shape[1] == 1 and found:
            return (found[0],)
        return tuple(found)
    # Products of activations: what is contracted and what passes on.
    tensors = [values[o.name] for o in operands]
    last = tensors[0]
    for labels in last.axes:
        found.append(narrow_constant(labels).reshape(-1).numpy())
    out = values[node.name]
    for labels in out.axes if isinstance(out, Value) else ():
        flat = narrow_constant(labels).reshape(-1).numpy()
        if not any(np.array_equal(flat, f) for f in found):
            found.append(flat)
    return tuple(found)
