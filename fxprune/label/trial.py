"""What a choice of kept channels does to every call, and the check that all still meets: labels of
the surviving channels run through the rewritten calls, and must come out as the survivors of what
came out before.
"""

from collections.abc import Iterable, Sequence
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
from fxprune.label.checker import Checker
from fxprune.label.groups import Analysis
from fxprune.label.propagation import Propagation, Remembered, empty
from fxprune.label.survivors import Conflict, kept_axes, survivors
from fxprune.rules.labels import FIXED, Value, narrow_constant, varying

_SHAPES = Remembered[list[tuple[int, ...]] | None]()


def check(module: GraphModule, analysis: Analysis, keep_mask: np.ndarray) -> None:
    """Run the labels through the shrunken graph.

    Raises:
        Conflict: the first place where the surviving channels do not fit together.
    """
    for conflict in conflicts(module, analysis, keep_mask):
        raise conflict


def conflicts(module: GraphModule, analysis: Analysis, keep_mask: np.ndarray) -> list[Conflict]:
    """Run the labels through the shrunken graph; what does not fit together, in order."""
    try:
        axes = kept_axes(analysis, keep_mask)
    except Conflict as conflict:
        return [conflict]
    trial = _Trial(module, Rewriter(analysis, keep_mask), Checker(axes))
    try:
        trial.run()
    except Conflict as conflict:
        trial.conflicts.append(conflict)
    return trial.conflicts


class _Trial(Propagation):
    """Label propagation through the rewritten calls.

    After a conflict it goes on with what should have come out, so that later calls report only
    conflicts of their own.
    """

    def __init__(self, module: GraphModule, rewriter: Rewriter, checker: Checker):
        super().__init__(module, lambda name: False)
        self.rewriter, self.before = rewriter, rewriter.analysis.values
        self.record: Checker = checker
        self.conflicts: list[Conflict] = []
        self._whole: dict[Node, bool] = {}

    def arguments(self, node: Node) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Operator and arguments of the rewritten call."""
        return self.rewriter.arguments(node)

    def result(self, node: Node) -> Any:
        """What a node returns once the channels are gone, without labels; constants stay."""
        value = self.before[node.name]
        if isinstance(value, Value) and value.const is not None:
            return replace(value, axes=())
        return self.rewriter.shrink(value)

    def _parameter(self, node: Node) -> Any:
        value = self.before[node.name]
        if not isinstance(value, Value) or value.parameter is None:
            return value
        name, given = str(node.target), self.record.given
        shape = tuple(
            given[(name, axis)].shape[-1] if (name, axis) in given else size
            for axis, size in enumerate(value.shape)
        )
        axes = [
            self.record.axis(name, shape, axis)
            for axis in range(value.rank)
            if (name, axis) in given
        ]
        labeled = tuple(a for a in axes if bool((narrow_constant(a) != FIXED).any()))
        return replace(value, shape=shape, axes=labeled)

    def _call(self, node: Node) -> Any:
        before = self.before[node.name]
        if all(map(self._stays_whole, (node, *node.all_input_nodes))):
            return before
        try:
            after = super()._call(node)
            self._compare(before, after)
            self._execute(node, after)
        except Conflict as conflict:
            self.conflicts.append(Conflict(conflict.message, conflict.labels, where(node)))
        except (RuntimeError, ValueError, IndexError, PlanError) as error:
            message = str(error).splitlines()[0] if str(error) else type(error).__name__
            self.conflicts.append(Conflict(message, self._labels_at(node), where(node)))
        else:
            return _without_new(before, after)
        return self._expected(before)

    def _stays_whole(self, node: Node) -> bool:
        """Whether no channel of a value goes: calls between such values are those of the original,
        which has been solved for.
        """
        if node not in self._whole:
            labels = [a for v in _flat([self.before[node.name]]) for a in v.axes]
            kept = self.rewriter.keep_mask
            self._whole[node] = all(kept[narrow_constant(a).numpy()].all() for a in labels)
        return self._whole[node]

    def _compare(self, before: Any, after: Any) -> None:
        """Insist that the labels a call returns are the survivors, in order, of those it returned
        at full width.
        """
        for old, new in zip(_flat([before]), _flat([after]), strict=True):
            for labels in new.axes:
                for full in old.axes:
                    if not varying(full) & varying(labels):
                        continue
                    expected = self._survivors(full)
                    if labels.shape != new.shape:
                        raise Conflict(
                            f"shape {tuple(labels.shape)} where {new.shape} is expected", expected
                        )
                    self.record.unite(expected, labels)

    def _survivors(self, labels: Tensor) -> Tensor:
        return survivors(labels, self.rewriter.keep_mask, self.rewriter.block_of)

    def _execute(self, node: Node, after: Any) -> None:
        """Insist that the operator takes the new shapes and returns the expected ones, whatever
        its rule looked at.
        """
        if not isinstance(node.target, torch._ops.OpOverload) or not self.rewriter.touched(node):
            return
        target, raw, keywords = self.arguments(node)
        args = self._resolve(raw)
        kwargs = {k: self._resolve(v) for k, v in keywords.items() if k != "device"}
        shapes = _SHAPES.get(target, args, kwargs, lambda: _result_shapes(target, args, kwargs))
        expected = [v.shape for v in _flat([after])]
        if shapes is not None and shapes != expected:
            raise PlanError(f"shapes {shapes} where {expected} are expected")

    def _labels_at(self, node: Node) -> Tensor:
        """Ids of all channels that a call reads or makes."""
        values = [self.before[n.name] for n in (*node.all_input_nodes, node)]
        labels = [narrow_constant(a).reshape(-1) for v in _flat(values) for a in v.axes]
        return torch.cat(labels or [torch.zeros(1, dtype=torch.int64)])

    def _expected(self, value: Any) -> Any:
        """The surviving shape and labels of what a call returned at full width."""
        if isinstance(value, (tuple, list)):
            return tuple(self._expected(v) for v in value)
        if not isinstance(value, Value):
            return value
        small = self.rewriter.shrink(value)
        left = [self._survivors(a) for a in value.axes]
        if any(_disagree(a.shape, small.shape) for a in left):
            return small  # Two groups cross on one dimension, which is what conflicts here.
        return replace(small, axes=tuple(a.expand(small.shape) for a in left))


def _disagree(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether one cannot be expanded to the other."""
    return any(own not in (1, size) for own, size in zip(shape, wanted, strict=True))


def _result_shapes(target: Any, args: Any, kwargs: dict[str, Any]) -> list[tuple[int, ...]] | None:
    """Shapes that an operator returns for arguments of these shapes; None where it does not run on
    the meta device.
    """
    try:
        result = target(*empty(args), **{k: empty(v) for k, v in kwargs.items()})
    except NotImplementedError:
        return None
    return [tuple(t.shape) for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]


def _without_new(before: Any, after: Any) -> Any:
    """What a call returns, without labels that it did not carry at full width (of dimensions that
    are left with one index).
    """
    if not isinstance(after, Value) or not isinstance(before, Value):
        return after
    axes = (a for a in after.axes if any(varying(a) & varying(full) for full in before.axes))
    return replace(after, axes=tuple(axes))


def _flat(values: Iterable[Any]) -> list[Value]:
    """The tensors among values and tuples of them."""
    nested = (v if isinstance(v, (tuple, list)) else (v,) for v in values)
    return [v for group in nested for v in group if isinstance(v, Value)]
