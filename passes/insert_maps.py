"""Insert maps: a linear layer that changes nothing, where a stream's norms or edges leave something
that no other layer can take.

A norm's scale, shift and mean go into the layers that read the norm and write its stream
(`FoldNorms`), and so does a change of basis. Where a norm's output is the next stream itself
(post-norm networks, a norm before the first block), or is read by a layer that shares its weight (a
head that is the embedding), where an activation writes a stream, or where the model gives one out,
there is no such layer: one is put there, of which the weight is the identity.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

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
from fxprune.passes.map_places import Place, find_places

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class InsertMaps(InPlacePass):
    """Put identity layers (size, size) where `FoldNorms` or a change of basis needs a layer.

    Requires a captured graph and its analysis, of labels that nothing pins, which does not hold for
    the result; ensures equal outputs, and all tensors that there were.

    Attributes:
        analysis: of the graph that is passed in.
        chosen: names of the maps that are put in; all by default.
        inserted: filled by the call: names of the maps that were put in.
    """

    analysis: Analysis
    chosen: Collection[str] | None = None
    inserted: list[str] = field(default_factory=list)

    @torch.no_grad()
    def call(self, module: GraphModule) -> PassResult:
        """All places are looked for before the first is taken."""
        for place in find_places(module, self.analysis):
            if self.chosen is None or place.name in self.chosen:
                self._insert(module, place)
                self.inserted.append(place.name)
        return PassResult(module, bool(self.inserted))

    def ensures(self, before: Facts, after: GraphModule) -> None:
        """Every tensor is the one there was; what is new belongs to maps."""
        found = Facts.of(after).tensors
        for name, tensor in before.tensors.items():
            if found.get(name) is not tensor:
                raise PlanError(f"{name} is not the tensor it was")

    def _insert(self, module: GraphModule, place: Place) -> None:
        """The channels go to the last dimension for the layer where they lie along another."""
        value, weight = self.analysis.values[place.source.name], f"{place.name}.weight"
        device = next(module.parameters()).device
        identity = torch.eye(value.shape[place.dim], dtype=value.dtype, device=device)
        set_parameter(module, weight, nn.Parameter(identity))
        placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
        behind = placeholders[-1] if place.source in placeholders else place.source
        with module.graph.inserting_after(behind):
            held = module.graph.get_attr(weight)
        held.meta = {"val": attribute(module, weight).detach().to("meta")}
        last = place.dim == value.rank - 1
        source = place.source if last else _turned(held, place.source, place.source, place.dim)
        with module.graph.inserting_after(held if last else source):
            call = module.graph.call_function(aten.linear.default, (source, held))
        call.meta = dict(source.meta)
        result = call if last else _turned(call, call, place.source, place.dim)
        place.source.replace_all_uses_with(result, lambda user: user in place.users)


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
