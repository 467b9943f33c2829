"""The module that is handed over: a GraphModule that pickle, copy and other processes take.

torch pickles a GraphModule as source that is traced again when it is read, by the tracer its graph
was born of. torch.export's tracer cannot trace again, and none can look into nested inputs. Here
the nodes themselves are the state, without what the trace noted about them.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import CodeGen, _PyTreeCodeGen, _PyTreeInfo
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from fxprune.capture.returned import Attributes, register_object
from fxprune.errors import StorageError
from fxprune.graph.nodes import attribute
from fxprune.graph.tensors import owner_of, shared_names

DERIVED = (
    *("_graph", "_code", "_lineno_map", "_prologue_start", "_in_spec", "_out_spec"),
    *("_tracer_cls", "_tracer_extras", "shape_env"),
)
"""Attributes of a GraphModule that follow from its graph, or belong to one trace."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """Another node among a node's arguments, by name."""

    node: str


@dataclasses.dataclass(frozen=True)
class Operator:
    """What `torch.ops` holds under a dotted name."""

    name: str


class CompressedModule(GraphModule):
    """A GraphModule whose pickle and copies hold its nodes; in all else it is torch's.

    What it takes and returns must be picklable for the whole to be: classes of one's own are
    looked up where they were defined, as pickle does for every object.
    """

    @classmethod
    def of(cls, module: GraphModule) -> "CompressedModule":
        """The same graph over the same tensors and layers, without the marks of its trace.

        Args:
            module: not to be used afterwards: its graph becomes the result's.
        """
        graph = module.graph
        graph._tracer_cls, graph._tracer_extras = None, {}
        made = cls(nn.Module(), Graph(), type(module).__name__)
        kept = {k: v for k, v in module.__dict__.items() if k not in DERIVED and k != "meta"}
        made.__dict__.update(kept)
        made.graph = graph
        return made

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As torch's, with each tensor of a layer below `AS_LAYERS` under its owner's name only."""
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
        for name in shared_names(self):
            state.pop(prefix + name, None)
        return state

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As torch's; layers below `AS_LAYERS` still share their tensors afterwards."""
        shared = shared_names(self)
        result = super().load_state_dict(*args, **kwargs)
        self._share(shared)
        return result

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        shared = shared_names(self)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        for name, own in shared.items():
            # The root's are loaded already, those of modules below it only afterwards.
            given = None if "." not in own else state_dict.get(prefix + own)
            state_dict[prefix + name] = attribute(self, own) if given is None else given

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        shared = shared_names(self)
        result = super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._share(shared)
        return result

    def _share(self, shared: Mapping[str, str]) -> None:
        """Give the layers below `AS_LAYERS` their owners' tensors."""
        for name, own in shared.items():
            layer, leaf = owner_of(self, name)
            slots = layer._parameters if leaf in layer._parameters else layer._buffers
            slots[leaf] = attribute(self, own)

    def __getstate__(self) -> dict[str, Any]:
        """Attributes, and the graph by names."""
        attributes: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {
            "name": type(self).__name__,
            "attributes": {k: v for k, v in attributes.items() if k not in DERIVED},
            "nodes": [_encode_node(node) for node in self.graph.nodes],
            "convention": _encode_convention(self.graph),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read a state back.

        Raises:
            StorageError: an operator or a class of the inputs or outputs is not known here.
        """
        GraphModule.__init__(self, nn.Module(), Graph(), state["name"])
        self.__dict__.update(state["attributes"])
        graph, nodes = Graph(), dict[str, Node]()
        for op, name, target, args, kwargs in state["nodes"]:
            found = _decode(nodes)
            nodes[name] = graph.create_node(
                op, found(target), map_aggregate(args, found), map_aggregate(kwargs, found), name
            )
        if state["convention"] is not None:
            graph.set_codegen(_decode_convention(*state["convention"]))
        self.graph = graph

    def __reduce__(self) -> tuple[Any, ...]:
        """An empty module, and its state, in which what refers to the module refers to it again."""
        return _blank, (), self.__getstate__()

    def __copy__(self) -> "CompressedModule":
        """The same tensors and layers under a graph of its own."""
        return self._with_state(self.__getstate__(), _blank())

    def __deepcopy__(self, memo: dict[int, Any]) -> "CompressedModule":
        """Tensors and layers of its own too; the report and plan go along."""
        made = memo[id(self)] = _blank()
        return self._with_state(copy.deepcopy(self.__getstate__(), memo), made)

    def _with_state(self, state: dict[str, Any], made: "CompressedModule") -> "CompressedModule":
        made.__setstate__(state)
        for old, new in zip(self.graph.nodes, made.graph.nodes, strict=True):
            new.meta = dict(old.meta)
        return made


def _blank() -> CompressedModule:
    """One whose state comes next."""
    return CompressedModule.__new__(CompressedModule)


def _encode_node(node: Node) -> tuple[Any, ...]:
    """(op, name, target, args, kwargs) without objects of the graph."""
    args, kwargs = map_aggregate(node.args, _encode), map_aggregate(node.kwargs, _encode)
    return node.op, node.name, _encode(node.target), args, kwargs


def _encode(value: Any) -> Any:
    if isinstance(value, Node):
        return Reference(value.name)
    if isinstance(value, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return Operator(str(value))
    if isinstance(value, torch._ops.HigherOrderOperator):
        return Operator(f"higher_order.{value.name()}")
    return value


def _decode(nodes: dict[str, Node]) -> Callable[[Any], Any]:
    """`_encode` backwards, given the nodes made so far."""

    def decode(value: Any) -> Any:
        if isinstance(value, Reference):
            return nodes[value.node]
        return _operator(value.name) if isinstance(value, Operator) else value

    return decode


def _operator(name: str) -> Any:
    found: Any = torch.ops
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise StorageError(
            f"The model calls torch.ops.{name}, which is not registered in this process. Import "
            "what registers it, and load again."
        ) from error
    return found


def _encode_convention(graph: Graph) -> tuple[Any, ...] | None:
    """What writes the forward: its class, argument names, the nests of inputs and outputs, and
    what else the class holds; None for a graph of plain arguments.
    """
    codegen = graph._codegen
    if isinstance(codegen, _PyTreeCodeGen):
        info = codegen.pytree_info
        outputs = None if info.out_spec is None else (_encode_spec(info.out_spec),)
        own = {k: v for k, v in vars(codegen).items() if k not in vars(_PyTreeCodeGen(info))}
        return type(codegen), list(info.orig_args), _encode_spec(info.in_spec), outputs, own
    if type(codegen) is not CodeGen:
        raise StorageError(
            f"The graph is written by a {type(codegen).__name__}, which cannot be copied."
        )
    return None


def _decode_convention(
    kind: type[_PyTreeCodeGen], names: list[str], inputs: Any, outputs: Any, own: dict[str, Any]
) -> _PyTreeCodeGen:
    spec = None if outputs is None else _decode_spec(*outputs)
    codegen = kind.__new__(kind)
    _PyTreeCodeGen.__init__(codegen, _PyTreeInfo(names, _decode_spec(inputs), spec))
    vars(codegen).update(own)
    return codegen


def _encode_spec(spec: pytree.TreeSpec) -> Any:
    """(type, context, children), None for a leaf: torch's own class warns when it is pickled."""
    if spec.is_leaf():
        return None
    return spec.type, spec.context, [_encode_spec(child) for child in spec.children()]


def _decode_spec(held: Any) -> pytree.TreeSpec:
    if held is None:
        return pytree.tree_structure(0)
    kind, context, children = held
    if kind not in pytree.SUPPORTED_NODES:
        if isinstance(kind, type) and isinstance(context, Attributes):
            register_object(kind)
        elif isinstance(kind, type) and dataclasses.is_dataclass(kind):
            pytree.register_dataclass(kind)
        else:
            raise StorageError(
                f"The model takes or returns a {getattr(kind, '__qualname__', kind)}, which "
                "torch.utils._pytree does not know in this process. Register it, and load again."
            )
    return pytree.TreeSpec(kind, context, [_decode_spec(child) for child in children])
