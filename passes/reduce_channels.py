"""Reduce channels: slice every parameter to its surviving channels and mend the calls' shape
arguments.
"""

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from fxprune.graph.tensors import names_of
from fxprune.label.analysis import Analysis, attribute
from fxprune.label.arguments import Rewriter
from fxprune.label.survivors import shrink_parameter
from fxprune.label.trial import check


@dataclass(frozen=True)
class ReduceChannels:
    """Remove channels from a captured graph.

    Requires a graph as `capture` makes it and its analysis; ensures that the labels run through
    the result without conflict. Weights are sliced only: interpolations are fitted afterwards,
    into the consumers this pass leaves.

    Attributes:
        analysis: of the graph that is passed in.
        keep_mask: (channels + 1,) bool; False removes a channel. Index 0 stands for everything that
            stays.
        checked: whether the result's labels are checked and its code is written, which a plan that
            is only tried can do without.
    """

    analysis: Analysis
    keep_mask: np.ndarray
    checked: bool = True

    def __call__(self, module: GraphModule) -> GraphModule:
        """A new module; the one passed in is not changed.

        Raises:
            PlanError: the surviving channels do not fit together.
        """
        if self.checked:
            check(module, self.analysis, self.keep_mask)
        rewriter = Rewriter(self.analysis, self.keep_mask)
        with warnings.catch_warnings():
            # torch's own pytree specs warn about themselves when copied.
            warnings.simplefilter("ignore", FutureWarning)
            small = copy.deepcopy(module)
        for old, node in zip(module.graph.nodes, small.graph.nodes, strict=True):
            if old.op != "call_function":
                continue
            target, args, kwargs = rewriter.arguments(old)
            names = {n.name: n for n in node.all_input_nodes}
            if target is not old.target or args != old.args or kwargs != old.kwargs:
                node.target = target
                node.args = _renamed(args, names)
                node.kwargs = _renamed(kwargs, names)
        aliases: dict[str, list[str]] = {}
        for name, first in names_of(small).items():
            aliases.setdefault(first, []).append(name)
        for name in dict.fromkeys(name for name, _ in self.analysis.axes):
            tensor = attribute(small, name)
            new = shrink_parameter(tensor.detach(), name, self.analysis, self.keep_mask)
            if new.shape == tensor.shape:
                continue
            if isinstance(tensor, nn.Parameter):
                new = nn.Parameter(new, requires_grad=tensor.requires_grad)
            for alias in aliases[name]:
                owner, _, leaf = alias.rpartition(".")
                setattr(attribute(small, owner) if owner else small, leaf, new)
        if self.checked:
            small.graph.lint()
            small.recompile()
        return small


def _renamed(item: Any, nodes: dict[str, Node]) -> Any:
    """Arguments of the original graph with its nodes replaced by their copies."""
    return map_arg(item, lambda n: nodes[n.name])
