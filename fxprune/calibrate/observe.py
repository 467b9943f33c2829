"""Run the captured graph over batches and look at nodes' results on the way."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from fxprune.capture.batch import Batch
from fxprune.errors import CalibrationError
from fxprune.graph.operators import operator_name
from fxprune.rules.movement import MOVEMENT


class Observer(Interpreter):
    """Runs the captured graph and hands nodes' results to callbacks; values die after their last
    use.
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


def arguments(module: GraphModule, batch: Batch) -> list[Any]:
    """A batch as the flat arguments of the graph's placeholders; keywords in the order they were
    traced in.
    """
    if not batch.kwargs:
        return list(module.graph.process_inputs(*batch.args))
    order = module.graph._codegen.pytree_info.in_spec.child(1).context  # type: ignore[attr-defined]
    return pytree.tree_leaves((batch.args, {name: batch.kwargs[name] for name in order}))


def where(node: Node) -> str:
    """The module a node came from, for messages."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return (str(stack[-1][0]) if stack and stack[-1][0] else "the model") + f" ({node.name})"


def require_finite(module: GraphModule, batch: Batch) -> None:
    """Find the first layer whose output is not finite on a batch.

    Raises:
        CalibrationError: names it; returns where all outputs are finite.
    """

    def check(node: Node) -> Callable[[Any], None]:
        def look(value: Any) -> None:
            if (
                isinstance(value, Tensor)
                and value.is_floating_point()
                and not torch.isfinite(value).all()
            ):
                bad = "NaN" if torch.isnan(value).any() else "infinite"
                raise CalibrationError(
                    f"{where(node)} gives {bad} values (shape {tuple(value.shape)}) on the "
                    "calibration data. Check the weights and that "
                    "inputs are normalized as in training."
                )

        return look

    skipped = ("where", "masked_fill", "full", "triu", "tril", "mul", "add", "neg", "rsub", "sub")
    # Attention masks hold -inf on purpose: judge only what a weight produced, not what moves it.
    calls = [
        n
        for n in module.graph.nodes
        if n.op == "call_function" and operator_name(n.target) not in MOVEMENT
    ]
    nodes = [n for n in calls if not any(s in str(n.target) for s in skipped)]
    with torch.no_grad():
        Observer(module, {n.name: check(n) for n in nodes}).run(
            *arguments(module, batch), enable_io_processing=False
        )
