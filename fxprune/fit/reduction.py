"""A captured graph beside the same graph with channels removed."""

from collections.abc import Set
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor
from torch.fx import GraphModule, Node

from fxprune.fit.rows import kept_indices
from fxprune.graph.nodes import attribute, constants
from fxprune.label.groups import Analysis


@dataclass(frozen=True)
class Reduction:
    """Two graphs whose nodes have equal names.

    Attributes:
        original: the captured graph.
        reduced: that graph with channels removed; its weights change while it is fitted.
        analysis: of the captured graph.
        keep_mask: (channels + 1,) bool.
    """

    original: GraphModule
    reduced: GraphModule
    analysis: Analysis
    keep_mask: np.ndarray

    @cached_property
    def reduced_nodes(self) -> dict[str, Node]:
        """Nodes of the reduced graph by name."""
        return {node.name: node for node in self.reduced.graph.nodes}

    @cached_property
    def constant(self) -> frozenset[str]:
        """Names of the nodes that depend on no input."""
        return frozenset(node.name for node in constants(self.original))

    def tensor(self, name: str) -> Tensor:
        """A parameter or buffer of the reduced graph as it stands."""
        value: Tensor = attribute(self.reduced, name)
        return value

    def kept(self, node: Node) -> dict[int, Tensor] | None:
        """Surviving indices of a node's result, as `kept_indices` gives them."""
        return kept_indices(self.analysis.values[node.name], self.keep_mask)

    def is_unchanged(self, node: Node, unchanged: Set[str]) -> bool:
        """Whether the reduced graph provably computes what the original does.

        Args:
            node: a call of the original graph.
            unchanged: names of the calls before it of which that is known.
        """
        for source in node.all_input_nodes:
            if source.name in self.constant:
                for name in _parameters_behind(source):
                    if attribute(self.original, name).shape != self.tensor(name).shape:
                        return False
            elif source.name not in unchanged:
                return False
        reduced = self.reduced_nodes[node.name]
        return (
            str(reduced.args) == str(node.args)
            and str(reduced.kwargs) == str(node.kwargs)
            and reduced.target == node.target
        )


def _parameters_behind(node: Node) -> list[str]:
    """Names of the parameters a constant node follows from."""
    if node.op == "get_attr":
        return [str(node.target)]
    return [name for source in node.all_input_nodes for name in _parameters_behind(source)]
