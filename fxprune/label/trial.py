"""What a choice of kept channels does to every call: new shapes, new shape arguments, and the
check that all still meets.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from fxprune.errors import PlanError
from fxprune.graph.nodes import where
from fxprune.label.arguments import Rewriter
from fxprune.label.groups import Analysis
from fxprune.label.propagation import Propagation, empty, signature
from fxprune.label.survivors import Conflict, kept_axes, shrunk, survivors
from fxprune.rules.labels import FIXED, Value, narrow_constant, varying
from fxprune.rules.recorder import Recorder

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


class _Relabeling(Propagation):
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
            shrunk(value, self.rewriter.keep_mask)
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
        new = shrunk(value, self.rewriter.keep_mask)
        return replace(
            new,
            axes=tuple(survivors(a, self.rewriter.keep_mask).expand(new.shape) for a in value.axes),
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
                    wanted = survivors(labels, self.rewriter.keep_mask)
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


def conflicts(module: GraphModule, analysis: Analysis, keep_mask: np.ndarray) -> list[Conflict]:
    """Run the labels through the shrunken graph; what does not fit together, in order."""
    try:
        run = _Relabeling(
            module, Rewriter(analysis, keep_mask), _Checker(kept_axes(analysis, keep_mask))
        )
    except Conflict as conflict:
        return [conflict]
    try:
        run.run()
    except Conflict as conflict:
        run.conflicts.append(conflict)
    return run.conflicts


def check(module: GraphModule, analysis: Analysis, keep_mask: np.ndarray) -> None:
    """Run the labels through the shrunken graph.

    Raises:
        Conflict: the first place where the surviving channels do not fit together.
    """
    for conflict in conflicts(module, analysis, keep_mask):
        raise conflict
