"""A cheaper `torch.export`: the graph of a network that does the same at every batch size.

The network runs twice in inference mode, on two and on five examples, and every operator that is
called is noted. The notes must agree in everything but whole numbers, and those that differ must be
proportional to the batch: they become `sym_size` of the first input, times a number. Real tensors
run in microseconds where torch.export spends milliseconds on symbolic shapes. What is left out is
the room `fxprune.capture`; a share of the networks goes through that too (`judge`).
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fxprune.capture.canonical import canonicalize
from fxprune.capture.composite import is_composite
from fxprune.capture.functional import mutates, plain_inplace
from fxprune.graph.operators import operator_name

TRACED, AGAIN = 2, 5
"""Examples of the two runs."""
DETACH = torch.ops.aten.detach.default
SHAPED_LIKE = {
    "aten.view_as": torch.ops.aten.reshape.default,
    "aten.reshape_as": torch.ops.aten.reshape.default,
    "aten.expand_as": torch.ops.aten.expand.default,
}
"""Operators that take a shape from their second argument, and those that take it as numbers."""


class UntraceableError(Exception):
    """The two runs differ by more than the batch, or something that is read again is changed."""


@dataclass(frozen=True)
class Made:
    """A tensor that a call returned: which call, and which of its results."""

    call: int
    part: int | None


@dataclass(frozen=True)
class Given:
    """A tensor that was there before: an input by its number, a weight by its name."""

    name: int | str


@dataclass(frozen=True)
class Batch:
    """A whole number that is so many times the batch."""

    times: int


def _swap(item: Any, change: Callable[[Any], Any]) -> Any:
    """Nested arguments with every leaf changed."""
    if isinstance(item, (list, tuple)):
        return type(item)(_swap(part, change) for part in item)
    if isinstance(item, dict):
        return {key: _swap(part, change) for key, part in item.items()}
    return change(item)


class Log(TorchDispatchMode):
    """Every operator called.

    Args:
        given: tensors that are there before, by identity.
    """

    def __init__(self, given: dict[int, Given]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.sources: dict[int, Made | Given] = dict(given)
        self.calls: list[tuple[Any, Any, Any]] = []
        self.constants: list[Tensor] = []
        self._alive: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        noted = self.refer((tuple(args), dict(kwargs or {})))
        result = func(*args, **(kwargs or {}))
        self._alive.append((args, kwargs, result))
        target = DETACH if func is torch.ops.aten.detach_.default else func
        if operator_name(func) in SHAPED_LIKE:  # sizes that follow the batch are told apart later
            target, noted = (
                SHAPED_LIKE[operator_name(func)],
                ((noted[0][0], list(result.shape)), {}),
            )
        self.calls.append((target, noted, result))
        several = isinstance(result, (tuple, list))
        for part, tensor in enumerate(result if several else [result]):
            if isinstance(tensor, Tensor):
                self.sources[id(tensor)] = Made(len(self.calls) - 1, part if several else None)
        return result

    def refer(self, item: Any) -> Any:
        """Arguments or outputs, with where they come from in the place of tensors."""
        return _swap(item, self._source)

    def _source(self, tensor: Any) -> Any:
        if not isinstance(tensor, Tensor):
            return tensor
        if id(tensor) not in self.sources:
            self.sources[id(tensor)] = Given(f"constant_{len(self.constants)}")
            self.constants.append(tensor)
        return self.sources[id(tensor)]


def trace(model: nn.Module, small: Sequence[Tensor], large: Sequence[Tensor]) -> GraphModule:
    """A network's canonical graph, as `fxprune.capture.export.capture` gives it; it returns the
    tensors of what the network returns in one tuple.

    Args:
        model: in eval mode; the graph shares its tensors.
        small, large: its inputs on `TRACED` and on `AGAIN` examples.

    Raises:
        UntraceableError: the network does not do the same at both sizes.
    """
    first, again = _run(model, small), _run(model, large)
    if [c[0] for c in first[0].calls] != [c[0] for c in again[0].calls]:
        raise UntraceableError("other operators are called on more examples")
    log, output = first
    notes = [_merge(one[1], two[1]) for one, two in zip(log.calls, again[0].calls, strict=True)]
    module = _build(model, log, notes, _merge(output, again[1]), small)
    for node in module.graph.nodes:
        if mutates(node) and not plain_inplace(node):
            raise UntraceableError(f"{node} changes a tensor that is read again")
    composite = any(map(is_composite, module.graph.nodes))
    canonicalize(module, model)
    if composite:
        _require_free_sizes(module, large)
    return module


@torch.no_grad()
def _require_free_sizes(module: GraphModule, inputs: Sequence[Tensor]) -> None:
    """Refuse a graph in which a call was opened into others that have the number of examples."""
    try:
        module(*inputs)
    except RuntimeError as error:
        raise UntraceableError(f"a call that is opened has sizes: {error}") from error


def _run(model: nn.Module, inputs: Sequence[Tensor]) -> tuple[Log, Any]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    given = {id(tensor): Given(name) for name, tensor in tensors}
    given |= {id(tensor): Given(i) for i, tensor in enumerate(inputs)}
    log = Log(given)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused call, which torch.export never sees
    try:
        with torch.inference_mode(), log:
            output = model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return log, log.refer(output)


def _merge(one: Any, two: Any) -> Any:
    """The notes of both runs as one, with numbers that follow the batch told apart."""
    if type(one) is not type(two):
        raise UntraceableError(f"{one} becomes {two} on more examples")
    if isinstance(one, (list, tuple)) and len(one) == len(two):
        return type(one)(_merge(a, b) for a, b in zip(one, two, strict=True))
    if isinstance(one, dict) and one.keys() == two.keys():
        return {key: _merge(one[key], two[key]) for key in one}
    if one == two:
        return one
    numbers = type(one) is int and type(two) is int
    if not numbers or one * AGAIN != two * TRACED or one % TRACED:
        raise UntraceableError(f"{one} becomes {two} on more examples")
    return Batch(one // TRACED)


class _Builder:
    """The nodes of a graph, made as they are asked for."""

    def __init__(self, model: nn.Module, log: Log, inputs: Sequence[Tensor]):
        self.graph, self.root, self.log = Graph(), nn.Module(), log
        self.held = dict(model.named_parameters()) | dict(model.named_buffers())
        self.held |= {f"constant_{i}": c for i, c in enumerate(log.constants)}
        self.nodes: dict[Any, Node] = {}
        self.calls: list[Node] = []
        # As torch.export does: weights first, in the model's order.
        read = set[int | str]()
        _swap(
            [noted for _, noted, _ in log.calls],
            lambda i: read.add(i.name) if isinstance(i, Given) else None,
        )
        for name in self.held:
            if name in read:
                self.node(Given(name))
        for i, tensor in enumerate(inputs):
            self.nodes[Given(i)] = self._note(self.graph.placeholder(f"x{i}"), tensor)

    def node(self, item: Any) -> Any:
        """The node for a reference; anything else as it is."""
        if not isinstance(item, (Made, Given, Batch)):
            return item
        if item not in self.nodes:
            self.nodes[item] = self._made(item)
        return self.nodes[item]

    def _made(self, item: Made | Given | Batch) -> Node:
        if isinstance(item, Given):
            value = self.held[str(item.name)]
            return self._note(self.graph.get_attr(str(item.name)), value.detach())
        if isinstance(item, Batch):
            size = torch.ops.aten.sym_size.int
            if item.times == 1:
                batch = self.graph.call_function(size, (self.nodes[Given(0)], 0))
                return self._note(batch, TRACED)
            product = self.graph.call_function(operator.mul, (self.node(Batch(1)), item.times))
            return self._note(product, TRACED * item.times)
        call = self.calls[item.call]
        if item.part is None:
            return call
        part = self.graph.call_function(operator.getitem, (call, item.part))
        return self._note(part, call.meta["val"][item.part])

    def call(self, target: Any, noted: Any, result: Any) -> None:
        """One more call."""
        args, kwargs = _swap(noted, self.node)
        self.calls.append(self._note(self.graph.call_function(target, args, kwargs), result))

    @staticmethod
    def _note(node: Node, value: Any) -> Node:
        node.meta["val"] = value
        return node


def _build(
    model: nn.Module, log: Log, notes: Sequence[Any], output: Any, inputs: Sequence[Tensor]
) -> GraphModule:
    builder = _Builder(model, log, inputs)
    for (target, _, result), noted in zip(log.calls, notes, strict=True):
        builder.call(target, noted, result)
    builder.graph.output(tuple(map(builder.node, pytree.tree_leaves(output))))
    holders: dict[str, Any] = {
        str(node.target): builder.held[str(node.target)]
        for node in builder.graph.nodes
        if node.op == "get_attr"
    }
    return GraphModule(holders, builder.graph)
