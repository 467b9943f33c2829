"""Rotate: write channel groups in new coordinates, in every weight that makes or reads them."""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassResult

from fxprune.errors import PlanError
from fxprune.graph.nodes import attribute
from fxprune.graph.tensors import aliases
from fxprune.label.groups import Analysis
from fxprune.label.turning import Basis, Turning
from fxprune.passes.contract import FunctionalPass
from fxprune.passes.facts import Facts


@dataclass(frozen=True, eq=False)
class Rotate(FunctionalPass):
    """Place bases that were computed before; the function stays what it is.

    Requires a graph as `capture` makes it, an analysis of it that names what may be rotated
    (`fxprune.label.rotatable.mark_rotatable`), and one basis per block of each group; ensures the
    same graph, with tensors of the same shapes, of which only the groups' weights differ.

    Attributes:
        analysis: of the graph that is passed in.
        bases: by the name of the channel group.
        shared: tensors that do not change lie where those of the module passed in lie; neither must
            be written to then.
    """

    analysis: Analysis
    bases: Mapping[str, Basis]
    shared: bool = False

    def requires(self, module: GraphModule) -> None:
        """Every basis is that of a group that may be rotated."""
        groups = {group.name: group for group in self.analysis.groups}
        for name, basis in self.bases.items():
            if name not in self.analysis.rotatable:
                reason = self.analysis.unmixed.get(name, "it is not known to be rotatable")
                raise PlanError(f"{name} cannot be rotated: {reason}. Leave it out of the bases.")
            blocks, size = groups[name].blocks.shape
            if basis.left.shape != (blocks, size, size) or basis.right.shape != basis.left.shape:
                raise PlanError(
                    f"the basis of {name} has the shapes {basis.left.shape} and "
                    f"{basis.right.shape}; its channels ask for {(blocks, size, size)}"
                )

    def call(self, module: GraphModule) -> PassResult:
        """A copy with turned weights; the module passed in is not changed."""
        turned = self._turned(module)
        memo: dict[int, Any] = aliases(module) if self.shared else {}
        memo |= {id(attribute(module, n)): new for n, new in turned.items()}
        with warnings.catch_warnings():
            # torch's own pytree specs warn about themselves when copied.
            warnings.simplefilter("ignore", FutureWarning)
            return PassResult(copy.deepcopy(module, memo), bool(turned))

    def ensures(self, before: Facts, after: GraphModule) -> None:
        """The graph and the shape of every tensor are as they were."""
        found = Facts.of(after)
        if found.text != before.text:
            raise PlanError("the graph is another")
        for name, shape in before.shapes.items():
            if found.shapes.get(name) != shape:
                raise PlanError(f"{name} has shape {found.shapes.get(name)}, before {shape}")

    def _turned(self, module: GraphModule) -> dict[str, Tensor]:
        """Every weight that holds channels of the groups, in their new coordinates."""
        turning, turned = Turning(self.analysis, self.bases), dict[str, Tensor]()
        for name, axis in turning.axes:
            tensor = attribute(module, name)
            new = turning.turn(turned.get(name, tensor).detach(), (name, axis), axis)
            parameter = isinstance(tensor, nn.Parameter)
            turned[name] = nn.Parameter(new, tensor.requires_grad) if parameter else new
        return turned
