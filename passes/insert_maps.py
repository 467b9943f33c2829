"""Insert maps: a linear layer that changes nothing, where a stream's norms or edges leave something
that no other layer can take.

A norm's scale, shift and mean go into the layers that read the norm and write its stream
(`FoldNorms`), and so does a change of basis. Where a norm's output is the next stream itself
(post-norm networks, a norm before the first block), or is read by a layer that shares its weight (a
head that is the embedding), where an activation writes a stream, or where the model gives one out,
there is no such layer: one is put there, of which the weight is the identity.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from fxprune.errors import PlanError
from fxprune.graph.nodes import attribute
from fxprune.graph.tensors import set_parameter
from fxprune.label.groups import Analysis
from fxprune.passes.contract import InPlacePass
from fxprune.passes.facts import Facts
from fxprune.passes.map_places import Place

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class InsertMaps(InPlacePass):
    """Put identity layers (size, size) where `FoldNorms` or a change of basis needs a layer.

    Requires a captured graph and its analysis, of labels that nothing pins, which does not hold for
    the result; ensures equal outputs, and all tensors that there were.

    Attributes:
        analysis: of the graph that is passed in.
        places: where, in that graph or in one that it is a copy of
            (`fxprune.passes.map_places.find_places`).
    """

    analysis: Analysis
    places: Collection[Place]

    @torch.no_grad()
    def call(self, module: GraphModule) -> PassResult:
        """Nodes are known by their names, which a copy keeps."""
        named = {node.name: node for node in module.graph.nodes}
        for place in self.places:
            users = [named[user.name] for user in place.users]
            self._insert(module, place, named[place.source.name], users)
        return PassResult(module, bool(self.places))

    def ensures(self, before: Facts, after: GraphModule) -> None:
        """Every tensor is the one there was; what is new belongs to maps."""
        found = Facts.of(after).tensors
        for name, tensor in before.tensors.items():
            if found.get(name) is not tensor:
                raise PlanError(f"{name} is not the tensor it was")

    def _insert(
        self, module: GraphModule, place: Place, source: Node, users: Collection[Node]
    ) -> None:
        """The channels go to the last dimension for the layer where they lie along another."""
        value, weight = self.analysis.values[source.name], f"{place.name}.weight"
        device = next(module.parameters()).device
        identity = torch.eye(value.shape[place.dim], dtype=value.dtype, device=device)
        set_parameter(module, weight, nn.Parameter(identity))
        placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
        behind = placeholders[-1] if source in placeholders else source
        with module.graph.inserting_after(behind):
            held = module.graph.get_attr(weight)
        held.meta = {"val": attribute(module, weight).detach().to("meta")}
        last = place.dim == value.rank - 1
        read = source if last else _turned(held, source, source, place.dim)
        with module.graph.inserting_after(held if last else read):
            call = module.graph.call_function(aten.linear.default, (read, held))
        call.meta = dict(read.meta)
        result = call if last else _turned(call, call, source, place.dim)
        source.replace_all_uses_with(result, lambda user: user in users)


def _turned(behind: Node, call: Node, source: Node, dim: int) -> Node:
    """Exchange a dimension and the last one.

    Args:
        behind: the node behind which this is written.
        call: what is read.
        source: whose meta holds for what stands there in the order of the original.
        dim: of the channels there.
    """
    with behind.graph.inserting_after(behind):
        turned = behind.graph.call_function(aten.transpose.int, (call, dim, -1))
    turned.meta = dict(source.meta)
    if call is source:
        turned.meta["val"] = source.meta["val"].transpose(dim, -1)
    return turned
