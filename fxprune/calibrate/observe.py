"""Run the captured graph over batches and look at nodes' results on the way."""

import functools
from collections.abc import Callable, Mapping, Set
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from fxprune.calibrate.running import Runner, workplace
from fxprune.capture.batch import Batch, make_batch
from fxprune.errors import CalibrationError
from fxprune.graph.nodes import where
from fxprune.graph.operators import operator_name
from fxprune.rules.movement import MOVEMENT

MASKING = ("where", "masked_fill", "full", "triu", "tril", "mul", "add", "neg", "rsub", "sub")
"""Parts of the names of operators that attention masks are made with, which hold -inf on purpose:
only what a weight produced is checked, not what moves or masks it.
"""


class Observer(Runner):
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


def at_inputs(module: GraphModule) -> Callable[..., Any]:
    """What runs a graph where its inputs are; it takes and returns what the model does.

    The graph as it stands: called, a captured one refuses what its example's sizes do not promise.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        if workplace(module, pytree.tree_leaves((args, kwargs))) is None:
            return module.forward(*args, **kwargs)
        flat = arguments(module, make_batch(args, kwargs))
        return module.graph.process_outputs(Runner(module).run(*flat, enable_io_processing=False))

    return run


@torch.no_grad()
def require_finite(module: GraphModule, batch: Batch) -> None:
    """Check that what every layer gives on a batch, and what the model returns, is finite.

    Infinite values that a mask or a `where` discards before they reach a layer or the output are
    the model's own affair.

    Raises:
        CalibrationError: names the first call whose values are not finite of those that reach a
            layer or the output.
    """
    found: dict[Node, str] = {}
    checked = {n for n in module.graph.nodes if n.op == "call_function" and not _may_mask(n)}
    kept = {n for n in checked if _is_layer(n)} | {
        source for source in map(_moved, _outputs(module)) if source in checked
    }

    def look(node: Node, value: Any) -> None:
        found.update(_not_finite(node, value))
        if node in found and node in kept:
            raise CalibrationError(found[_origin(node, found, checked)])

    calls = [n for n in module.graph.nodes if n.op == "call_function"]
    checks = {node.name: functools.partial(look, node) for node in calls}
    Observer(module, checks).run(*arguments(module, batch), enable_io_processing=False)


def _may_mask(node: Node) -> bool:
    name = operator_name(node.target)
    return name in MOVEMENT or any(part in str(node.target) for part in MASKING)


def _is_layer(node: Node) -> bool:
    """A call that reads a weight of at least two axes: every output sums over its inputs."""
    return any(
        source.op == "get_attr" and getattr(source.meta.get("val"), "ndim", 0) > 1
        for source in node.all_input_nodes
    )


def _outputs(module: GraphModule) -> list[Node]:
    """What a graph returns."""
    return list(module.graph.output_node().all_input_nodes)


def _moved(node: Node) -> Node:
    """The call whose values a node moves about."""
    while node.op == "call_function" and operator_name(node.target) in MOVEMENT:
        node = node.all_input_nodes[0]
    return node


def _not_finite(node: Node, value: Any) -> dict[Node, str]:
    """What to say of a value that is not finite, by its node."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return {}
    if torch.isfinite(value).all():
        return {}
    bad = "NaN" if torch.isnan(value).any() else "infinite"
    return {
        node: f"{where(node)} gives {bad} values (shape {tuple(value.shape)}) on the calibration "
        "data. Check the weights and that inputs are normalized as in training."
    }


def _origin(node: Node, found: Mapping[Node, str], checked: Set[Node]) -> Node:
    """The earliest call that is not finite, and no mask, of those that lead to one."""
    origin = node
    while True:
        origin = node if node in checked else origin
        earlier = [source for source in node.all_input_nodes if source in found]
        if not earlier:
            return origin
        node = earlier[0]
