"""What a choice of kept channels does to every call: new shapes, new shape arguments, and the
check that all still meets.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from fxprune.errors import PlanError
from fxprune.label.groups import Analysis
from fxprune.label.propagation import Propagation, empty, signature, where
from fxprune.rules.labels import FIXED, Value, narrow_constant, varying
from fxprune.rules.recorder import Recorder
from fxprune.rules.registry import operator_name

aten = torch.ops.aten


class Conflict(PlanError):
    """The surviving channels do not fit together.

    Attributes:
        labels: ids of the channels concerned.
        where: the call at which they meet.
    """

    def __init__(self, message: str, labels: Tensor, where: str = ""):
        super().__init__(f"{where}: {message}" if where else message)
        self.message, self.labels, self.where = message, labels, where


def sizes(labels: Tensor, alive: np.ndarray) -> dict[int, int]:
    """New length of every dimension along which a label tensor changes.

    Raises:
        Conflict: what is left is not a box (blocks keep unequal counts).
    """
    dims = sorted(varying(labels))
    compact = narrow_constant(labels)
    mask = alive[compact.numpy()]
    candidates = []
    for dim in dims:
        counts = np.unique(mask.sum(dim))
        rest = tuple(d for d in range(mask.ndim) if d != dim)
        uniform = counts[counts > 0]
        candidates.append(
            {int(mask.any(rest).sum())} | ({int(uniform[0])} if len(uniform) == 1 else set())
        )
    boxes = [box for box in itertools.product(*candidates) if math.prod(box) == int(mask.sum())]
    if not boxes:
        raise Conflict("blocks of one channel group keep unequal counts", compact)
    # Blocks stay whole: where chance leaves several boxes, the one that shortens fewest dimensions
    # is meant.
    best = max(
        boxes,
        key=lambda box: sum(size == mask.shape[dim] for size, dim in zip(box, dims, strict=True)),
    )
    return dict(zip(dims, best, strict=True))


def survivors(labels: Tensor, alive: np.ndarray) -> Tensor:
    """What a label tensor must look like after removal, its constant dimensions cut to size 1."""
    compact = narrow_constant(labels)
    left = sizes(labels, alive)
    kept = compact.numpy()[alive[compact.numpy()]]
    return torch.from_numpy(kept).reshape([left.get(d, 1) for d in range(labels.dim())])


def shrunk(value: Any, alive: np.ndarray) -> Any:
    """The value with its shape after removal, and no labels."""
    if isinstance(value, tuple):
        return tuple(shrunk(v, alive) for v in value)
    if not isinstance(value, Value):
        return value
    shape = list(value.shape)
    for labels in value.axes:
        for dim, size in sizes(labels, alive).items():
            shape[dim] = size
    return replace(value, shape=tuple(shape), axes=())


def kept_before(value: Value, dim: int, stop: int, alive: np.ndarray) -> int:
    """How many of the first `stop` indices along a dimension survive."""
    for labels in value.axes:
        if dim in varying(labels) and stop > 0:
            head = labels.narrow(dim, 0, min(stop, labels.shape[dim]))
            if dim in varying(head):
                return sizes(head, alive)[dim]
            return head.shape[dim] if alive[narrow_constant(head).numpy()].any() else 0
    return stop


@dataclass(frozen=True)
class Rewriter:
    """New operator and arguments of every call, given the surviving channels.

    Attributes:
        analysis: of the original graph.
        alive: (channels + 1,) bool, True at 0.
    """

    analysis: Analysis
    alive: np.ndarray

    def value(self, item: Any) -> Any:
        """A node's value in the original graph."""
        return self.analysis.values[item.name] if isinstance(item, Node) else item

    def arguments(self, node: Node) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Operator, positional and keyword arguments for the shrunken tensors."""
        name = operator_name(node.target).removeprefix("aten.")
        change = getattr(self, f"_{FAMILIES.get(name, '')}", None)
        kwargs = dict(node.kwargs)
        if change is None or not self.touched(node):
            return node.target, node.args, kwargs
        target, args = change(node, list(node.args), kwargs)
        return target, tuple(args), kwargs

    def touched(self, node: Node) -> bool:
        """Whether a call reads or makes channels of a group."""
        values = [self.value(a) for a in node.all_input_nodes] + [self.value(node)]
        flat = [v for value in values for v in (value if isinstance(value, tuple) else (value,))]
        return any(isinstance(v, Value) and v.axes for v in flat)

    def _shape(self, node: Node, args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, list[Any]]:
        old, new = self.value(node).shape, shrunk(self.value(node), self.alive).shape
        place = 2 if operator_name(node.target) == "aten.unflatten" else 1
        wanted = list(args[place])
        start = args[1] % self.value(node.args[0]).rank if place == 2 else 0
        for i, size in enumerate(wanted):
            at = start + i
            if isinstance(size, int) and size not in (-1,) and old[at] != new[at]:
                wanted[i] = new[at]
        args[place] = wanted
        return node.target, args

    def _split(self, node: Node, args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, list[Any]]:
        source = self.value(args[0])
        dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % source.rank
        old = [v.shape[dim] for v in self.value(node)]
        new = [shrunk(v, self.alive).shape[dim] for v in self.value(node)]
        if old == new:
            return node.target, args
        kwargs.clear()
        return aten.split_with_sizes.default, [args[0], new, dim]

    def _slice(self, node: Node, args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, list[Any]]:
        source = self.value(args[0])
        dim = (args[1] if len(args) > 1 else 0) % source.rank
        if not any(dim in varying(a) for a in source.axes):
            return node.target, args
        narrow = operator_name(node.target) == "aten.narrow"
        for place in (2, 3):
            if place >= len(args) or not isinstance(args[place], int):
                continue
            position = args[place] + (node.args[2] if narrow and place == 3 else 0)
            position = (
                position + source.shape[dim] if position < 0 else min(position, source.shape[dim])
            )
            args[place] = kept_before(source, dim, position, self.alive)
        if narrow:
            args[3] -= args[2]
        return node.target, args

    def _scatter(
        self, node: Node, args: list[Any], kwargs: dict[str, Any]
    ) -> tuple[Any, list[Any]]:
        source = self.value(args[0])
        dim = (args[2] if len(args) > 2 else 0) % source.rank
        for place in (3, 4):
            if place < len(args) and isinstance(args[place], int):
                position = (
                    args[place] + source.shape[dim]
                    if args[place] < 0
                    else min(args[place], source.shape[dim])
                )
                args[place] = kept_before(source, dim, position, self.alive)
        return node.target, args

    def _select(self, node: Node, args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, list[Any]]:
        source = self.value(args[0])
        dim = args[1] % source.rank
        if isinstance(args[2], int) and any(dim in varying(a) for a in source.axes):
            args[2] = kept_before(source, dim, args[2] % source.shape[dim], self.alive)
        return node.target, args

    def _pad(self, node: Node, args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, list[Any]]:
        source, out = self.value(args[0]), self.value(node)
        amounts = list(args[1])
        for index in range(len(amounts) // 2):
            dim = source.rank - 1 - index
            if not any(dim in varying(a) for a in out.axes) or not isinstance(
                amounts[2 * index], int
            ):
                continue
            before = amounts[2 * index]
            inside = kept_before(out, dim, before + source.shape[dim], self.alive)
            total = kept_before(out, dim, out.shape[dim], self.alive)
            amounts[2 * index] = kept_before(out, dim, before, self.alive)
            amounts[2 * index + 1] = total - inside
        args[1] = amounts
        return node.target, args

    def _convolution(
        self, node: Node, args: list[Any], kwargs: dict[str, Any]
    ) -> tuple[Any, list[Any]]:
        weight, source = self.value(args[1]), self.value(args[0])
        place = 8 if operator_name(node.target) == "aten.convolution" else 6
        if len(args) > place and args[place] > 1:
            channel = source.rank - weight.rank + 1
            if source.shape[channel] == args[place]:
                args[place] = shrunk(source, self.alive).shape[channel]
        return node.target, args

    def _attention(
        self, node: Node, args: list[Any], kwargs: dict[str, Any]
    ) -> tuple[Any, list[Any]]:
        query = self.value(args[0])
        if kwargs.get("scale") is None and shrunk(query, self.alive).shape[-1] != query.shape[-1]:
            kwargs["scale"] = query.shape[-1] ** -0.5
        return node.target, args

    def _instances(
        self, node: Node, args: list[Any], kwargs: dict[str, Any]
    ) -> tuple[Any, list[Any]]:
        source = self.value(args[0])
        if args[1] == source.shape[1]:
            args[1] = shrunk(source, self.alive).shape[1]
        return node.target, args

    def _repeat(self, node: Node, args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, list[Any]]:
        kwargs.pop("output_size", None)
        return node.target, args


FAMILIES = (
    dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "expand", "broadcast_to", "unflatten"), "shape"
    )
    | dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), "split")
    | dict.fromkeys(("slice", "narrow"), "slice")
    | dict.fromkeys(("pad", "constant_pad_nd"), "pad")
    | dict.fromkeys(
        [f"conv{kind}{rank}d" for kind in ("", "_transpose") for rank in (1, 2, 3)]
        + ["convolution"],
        "convolution",
    )
    | {
        "slice_scatter": "scatter",
        "select": "select",
        "scaled_dot_product_attention": "attention",
        "group_norm": "instances",
        "repeat_interleave": "repeat",
    }
)


SEPARATED = "channels that must stay together were separated"


class _Checker(Recorder):
    """Hands out the surviving channel ids and insists that what meets is equal."""

    def __init__(self, axes: dict[tuple[str, int], np.ndarray]):
        super().__init__()
        self.given = axes

    def axis(self, name: str, shape: tuple[int, ...], axis: int, groups: int = 1) -> Tensor:
        labels = torch.from_numpy(self.given[(name, axis)])
        view = [1] * len(shape)
        view[axis] = shape[axis]
        if labels.dim() == 1:
            return labels.view(view).expand(shape)
        view[0] = shape[0]
        return labels.repeat_interleave(shape[0] // labels.shape[0], 0).view(view).expand(shape)

    def has_axis(self, name: str, axis: int) -> bool:
        return (name, axis) in self.given

    def blockwise(self, name: str, axis: int, groups: int) -> bool:
        return (name, axis) in self.given and self.given[(name, axis)].ndim == 2

    def owner(self, labels: Tensor) -> None:
        return None

    def fresh(self, *shape: int) -> Tensor:
        return torch.full(shape, FIXED)

    def unite(self, left: Tensor, right: Tensor) -> None:
        left, right = narrow_constant(left), narrow_constant(right)
        try:
            left, right = torch.broadcast_tensors(left, right)
        except RuntimeError as error:
            raise Conflict(SEPARATED, torch.cat([left.flatten(), right.flatten()])) from error
        wrong = (left != right) & (left != FIXED) & (right != FIXED)
        if wrong.any():
            raise Conflict(SEPARATED, torch.cat([left[wrong], right[wrong]]))

    def pin(self, labels: Tensor, reason: str) -> None:
        return None

    def block(self, labels: Tensor, strict: bool = True) -> None:
        return None

    def heads(self, labels: list[Tensor]) -> bool:
        # Where one channel is left of every head, its labels look like those of heads that go as a
        # whole.
        return super().heads(labels) and all(a.shape[-1] != 1 for a in labels)


class _Relabelling(Propagation):
    """Label propagation through the rewritten calls."""

    def __init__(self, module: GraphModule, rewriter: Rewriter, checker: _Checker):
        super().__init__(module, lambda name: False)
        self.rewriter = rewriter
        self.record: _Checker = checker
        self.conflicts: list[Conflict] = []
        self.returned: dict[object, list[tuple[int, ...]]] = {}

    def arguments(self, node: Node) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        return self.rewriter.arguments(node)

    def result(self, node: Node) -> Any:
        value = self.rewriter.analysis.values[node.name]
        return (
            shrunk(value, self.rewriter.alive)
            if not isinstance(value, Value) or value.const is None
            else replace(value, axes=())
        )

    def _call(self, node: Node) -> Any:
        try:
            found = super()._call(node)
            before = self.rewriter.analysis.values[node.name]
            self._compare(before, found)
            self._execute(node, found)
            found = _known(before, found)
        except Conflict as conflict:
            self.conflicts.append(Conflict(conflict.message, conflict.labels, where(node)))
        except (RuntimeError, ValueError, IndexError, PlanError) as error:
            held = [self.rewriter.analysis.values[n.name] for n in (*node.all_input_nodes, node)]
            labels = [narrow_constant(a).reshape(-1) for v in _flat(held) for a in v.axes]
            ids = torch.cat(labels or [torch.zeros(1, dtype=torch.int64)])
            self.conflicts.append(
                Conflict(
                    str(error).splitlines()[0] if str(error) else type(error).__name__,
                    ids,
                    where(node),
                )
            )
        else:
            return found
        # Go on with what should have come out, so that later calls report only conflicts of their
        # own.
        return self._expected(self.rewriter.analysis.values[node.name])

    def _expected(self, value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return tuple(self._expected(v) for v in value)
        if not isinstance(value, Value):
            return value
        new = shrunk(value, self.rewriter.alive)
        return replace(
            new, axes=tuple(survivors(a, self.rewriter.alive).expand(new.shape) for a in value.axes)
        )

    def _compare(self, old: Any, found: Any) -> None:
        """Insist that the labels a call returns are the survivors, in order, of those it returned
        at full width.
        """
        for before, after in zip(_flat([old]), _flat([found]), strict=True):
            for got in after.axes:
                for labels in before.axes:
                    if not varying(labels) & varying(got):
                        continue
                    wanted = survivors(labels, self.rewriter.alive)
                    if got.shape != after.shape:
                        raise Conflict(
                            f"shape {tuple(got.shape)} where {after.shape} is expected", wanted
                        )
                    self.record.unite(wanted, got)

    def _execute(self, node: Node, found: Any) -> None:
        """Insist that the operator takes the new shapes and returns the expected ones, whatever
        its rule looked at.
        """
        if not isinstance(node.target, torch._ops.OpOverload) or not self.rewriter.touched(node):
            return
        target, raw, keywords = self.arguments(node)
        args, kwargs = (
            self._resolve(raw),
            {k: self._resolve(v) for k, v in keywords.items() if k != "device"},
        )
        # Networks repeat themselves, and operators on the meta device are written in Python.
        call = target, signature(args), signature(list(kwargs.items()))
        if call not in self.returned:
            try:
                got = target(*empty(args), **{k: empty(v) for k, v in kwargs.items()})
            except NotImplementedError:  # no meta kernel
                return
            self.returned[call] = [
                tuple(t.shape) for t in pytree.tree_leaves(got) if isinstance(t, Tensor)
            ]
        shapes, wanted = self.returned[call], [v.shape for v in _flat([found])]
        if shapes != wanted:
            raise PlanError(f"shapes {shapes} where {wanted} are expected")

    def _parameter(self, node: Node) -> Any:
        value = self.rewriter.analysis.values[node.name]
        if not isinstance(value, Value) or value.parameter is None:
            return value
        name = str(node.target)
        held = {
            axis: ids
            for axis in range(value.rank)
            if (ids := self.record.given.get((name, axis))) is not None
        }
        shape = tuple(
            held[axis].shape[-1] if axis in held else size for axis, size in enumerate(value.shape)
        )
        axes = [self.record.axis(name, shape, axis) for axis in held]
        return replace(
            value,
            shape=shape,
            axes=tuple(a for a in axes if bool((narrow_constant(a) != FIXED).any())),
        )


def _known(before: Any, found: Any) -> Any:
    """What a call returns, without labels that it did not carry at full width (of dimensions that
    are left with one index).
    """
    if not isinstance(found, Value) or not isinstance(before, Value):
        return found
    return replace(
        found,
        axes=tuple(
            a for a in found.axes if any(varying(a) & varying(labels) for labels in before.axes)
        ),
    )


def _flat(values: Iterable[Any]) -> list[Value]:
    """The tensors among values and tuples of them."""
    nested = (v if isinstance(v, (tuple, list)) else (v,) for v in values)
    return [v for group in nested for v in group if isinstance(v, Value)]


def kept_axes(analysis: Analysis, alive: np.ndarray) -> dict[tuple[str, int], np.ndarray]:
    """Surviving channel ids of every parameter axis, in order; (kept,) or (groups, kept)."""
    result = {}
    for key, ids in analysis.axes.items():
        mask = alive[ids]
        if ids.ndim == 2:
            counts = np.unique(mask.sum(1))
            if len(counts) != 1:
                raise Conflict(
                    f"{key[0]}: convolution groups keep unequal counts {counts.tolist()}",
                    torch.from_numpy(ids),
                )
            result[key] = ids[mask].reshape(len(ids), -1)
        else:
            result[key] = ids[mask]
    return result


def conflicts(module: GraphModule, analysis: Analysis, alive: np.ndarray) -> list[Conflict]:
    """Run the labels through the shrunken graph; what does not fit together, in order."""
    try:
        run = _Relabelling(module, Rewriter(analysis, alive), _Checker(kept_axes(analysis, alive)))
    except Conflict as conflict:
        return [conflict]
    try:
        run.run()
    except Conflict as conflict:
        run.conflicts.append(conflict)
    return run.conflicts


def check(module: GraphModule, analysis: Analysis, alive: np.ndarray) -> None:
    """Run the labels through the shrunken graph.

    Raises:
        Conflict: the first place where the surviving channels do not fit together.
    """
    for conflict in conflicts(module, analysis, alive):
        raise conflict


def shrink_parameter(tensor: Tensor, name: str, analysis: Analysis, alive: np.ndarray) -> Tensor:
    """Slice a parameter to its surviving channels."""
    masks = [np.ones(s, dtype=bool) for s in tensor.shape]
    grouped: np.ndarray | None = None
    for axis in range(tensor.dim()):
        ids = analysis.axes.get((name, axis))
        if ids is None:
            continue
        if ids.ndim == 1:
            masks[axis] = alive[ids]
        else:
            grouped = alive[ids]
    for axis, mask in enumerate(masks):
        if not mask.all():
            tensor = tensor.index_select(
                axis, torch.from_numpy(np.flatnonzero(mask)).to(tensor.device)
            )
    if grouped is not None and not grouped.all():
        rows = tensor.shape[0] // len(grouped)
        parts = [
            tensor[g * rows : (g + 1) * rows].index_select(
                1, torch.from_numpy(np.flatnonzero(m)).to(tensor.device)
            )
            for g, m in enumerate(grouped)
        ]
        tensor = torch.cat(parts)
    return tensor.contiguous()
