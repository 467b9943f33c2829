"""Reduce channels: slice every parameter to its surviving channels and mend the calls' shape
arguments.
"""

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg
from torch.fx.passes.infra.pass_base import PassResult

from fxprune.errors import PlanError
from fxprune.graph.nodes import attribute
from fxprune.graph.tensors import aliases
from fxprune.label.arguments import Rewriter
from fxprune.label.groups import Analysis
from fxprune.label.kept_statistics import Inner, rewritten
from fxprune.label.survivors import kept_axes, shrink_parameter
from fxprune.label.trial import check
from fxprune.passes.contract import FunctionalPass
from fxprune.passes.facts import Facts


@dataclass(frozen=True, eq=False)
class ReduceChannels(FunctionalPass):
    """Remove channels from a captured graph.

    Requires a graph as `capture` makes it and its analysis, and that the labels run through the
    result without conflict; ensures the surviving shape of every parameter, under the same names.
    Weights are sliced only: interpolations are fitted afterwards, into the consumers this pass
    leaves.

    The check of the labels takes most of the time. A plan that is only tried goes through `call`,
    which leaves it out.

    Attributes:
        analysis: of the graph that is passed in.
        keep_mask: (channels + 1,) bool; False removes a channel. Index 0 stands for everything that
            stays.
        shared: tensors that keep all of their channels lie where those of the module passed in lie;
            neither must be written to then.
    """

    analysis: Analysis
    keep_mask: np.ndarray
    shared: bool = False

    def requires(self, module: GraphModule) -> None:
        """The analysis is of this graph, and the surviving channels fit together."""
        channels = len(self.analysis.group_of())
        if self.keep_mask.shape != (channels,) or self.keep_mask.dtype != bool:
            raise PlanError(
                f"the keep mask is {self.keep_mask.dtype} of shape {self.keep_mask.shape}, the "
                f"analysis has {channels} entries. Make one bool per entry, the first True."
            )
        for node in module.graph.nodes:
            if node.op in ("call_function", "get_attr") and node.name not in self.analysis.values:
                raise PlanError(
                    f"{node.name} is not in the analysis, which is of another graph. Analyze the "
                    "graph that is passed in."
                )
        check(module, self.analysis, self.keep_mask)

    def call(self, module: GraphModule) -> PassResult:
        """A smaller copy, compiled once; the module passed in is not changed."""
        with warnings.catch_warnings():
            # torch's own pytree specs warn about themselves when copied.
            warnings.simplefilter("ignore", FutureWarning)
            graph = copy.deepcopy(module.graph)
            rewritten = self._rewrite_calls(module.graph, graph)
            slices = self._slices(module)
            # What stands in the memo is placed in the copy, under every name of the original.
            memo: dict[int, Any] = aliases(module) if self.shared else {}
            memo |= {id(attribute(module, n)): new for n, new in slices.items()}
            small = copy.deepcopy(module, memo | {id(module.graph): graph})
        return PassResult(small, rewritten or bool(slices))

    def ensures(self, before: Facts, after: GraphModule) -> None:
        """Every parameter has its surviving channels; the rest keep their shapes."""
        wanted = {name: list(shape) for name, shape in before.shapes.items()}
        for (name, axis), kept in kept_axes(self.analysis, self.keep_mask).items():
            wanted[name][axis] = kept.shape[-1]
        first: dict[int, str] = {}
        shapes = Facts.of(after).shapes
        for name, tensor in before.tensors.items():
            survives = tuple(wanted[first.setdefault(id(tensor), name)])
            if shapes.get(name) != survives:
                raise PlanError(
                    f"{name} has shape {shapes.get(name)} where {survives} survives of it"
                )

    def _rewrite_calls(self, old_graph: Graph, graph: Graph) -> bool:
        """Mend operators and shape arguments of the copied calls; whether there were any."""
        rewriter, changed = Rewriter(self.analysis, self.keep_mask), False
        for old, node in zip(list(old_graph.nodes), list(graph.nodes), strict=True):
            if old.op != "call_function":
                continue
            new = rewritten(rewriter, old)
            if new != Inner(old.target, old.args, dict(old.kwargs)):
                copies = {n.name: n for n in node.all_input_nodes}
                with graph.inserting_before(node):
                    node.args, node.kwargs = _placed(new, graph, copies)
                node.target = new.target
                changed = True
        return changed

    def _slices(self, module: GraphModule) -> dict[str, Tensor]:
        """What survives of every tensor that loses channels, by its first name."""
        slices: dict[str, Tensor] = {}
        for name in dict.fromkeys(name for name, _ in self.analysis.axes):
            tensor = attribute(module, name)
            new = shrink_parameter(tensor.detach(), name, self.analysis, self.keep_mask)
            if new.shape != tensor.shape:
                parameter = isinstance(tensor, nn.Parameter)
                slices[name] = nn.Parameter(new, tensor.requires_grad) if parameter else new
        return slices


def _placed(call: Inner, graph: Graph, nodes: dict[str, Node]) -> tuple[Any, Any]:
    """Arguments of a call, with nodes of the original graph replaced by their copies and inner
    calls by new nodes.
    """

    def place(item: Any) -> Any:
        if isinstance(item, Inner):
            return graph.call_function(item.target, *_placed(item, graph, nodes))
        return map_arg(item, lambda n: nodes[n.name])

    # Inner calls stand among the positional arguments only.
    return tuple(place(item) for item in call.args), place(call.kwargs)
