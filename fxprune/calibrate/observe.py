"""Run the captured graph over batches and look at nodes' results on the way."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from fxprune.capture.batch import Batch
from fxprune.errors import CalibrationError
from fxprune.graph.nodes import where
from fxprune.graph.operators import operator_name
from fxprune.rules.movement import MOVEMENT

MASKING = ("where", "masked_fill", "full", "triu", "tril", "mul", "add", "neg", "rsub", "sub")
"""Parts of the names of operators that attention masks are made with, which hold -inf on purpose:
only what a weight produced is checked, not what moves or masks it.
"""


class Observer(Interpreter):
    """Runs the captured graph and hands nodes' results to callbacks.

    Values die after their last use.

    Args:
        module: the captured graph.
        watchers: callbacks by the names of nodes; a node may appear in several.
    """

    def __init__(self, module: GraphModule, *watchers: Mapping[str, Callable[[Any], None]]):
        super().__init__(module)
        self._watchers = watchers
        # Errors raised by callbacks are for people.
        self.extra_traceback = False

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        for watch in self._watchers:
            if n.name in watch:
                watch[n.name](result)
        return result


def together(*watchers: Mapping[str, Callable[[Any], None]]) -> dict[str, Callable[[Any], None]]:
    """Callbacks of all, as one; a node that several watch is shown to each."""
    found: dict[str, Callable[[Any], None]] = {}
    for watch in watchers:
        for name, call in watch.items():
            found[name] = call if name not in found else _both(found[name], call)
    return found


def _both(first: Callable[[Any], None], second: Callable[[Any], None]) -> Callable[[Any], None]:
    def show(value: Any) -> None:
        first(value)
        second(value)

    return show


def arguments(module: GraphModule, batch: Batch) -> list[Any]:
    """A batch as the flat arguments of the graph's placeholders.

    Keywords come in the order they were traced in.
    """
    if not batch.kwargs:
        return list(module.graph.process_inputs(*batch.args))
    order = module.graph._codegen.pytree_info.in_spec.child(1).context  # type: ignore[attr-defined]
    return pytree.tree_leaves((batch.args, {name: batch.kwargs[name] for name in order}))


@torch.no_grad()
def require_finite(module: GraphModule, batch: Batch) -> None:
    """Check that every layer's output on a batch is finite.

    Raises:
        CalibrationError: names the first layer whose output is not.
    """
    checks = {
        node.name: functools.partial(_check_finite, node)
        for node in module.graph.nodes
        if node.op == "call_function"
        and operator_name(node.target) not in MOVEMENT
        and not any(part in str(node.target) for part in MASKING)
    }
    Observer(module, checks).run(*arguments(module, batch), enable_io_processing=False)


def _check_finite(node: Node, value: Any) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return
    if not torch.isfinite(value).all():
        bad = "NaN" if torch.isnan(value).any() else "infinite"
        raise CalibrationError(
            f"{where(node)} gives {bad} values (shape {tuple(value.shape)}) on the calibration "
            "data. Check the weights and that inputs are normalized as in training."
        )
