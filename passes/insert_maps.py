"""Insert maps: a linear layer that changes nothing, where a stream's norms leave something that no
other layer can take.

A norm's scale, shift and mean go into the layers that read the norm and write its stream
(`FoldNorms`). Where a norm's output is the next stream itself (post-norm networks, a norm before
the first block), or is read by a layer that shares its weight (a head that is the embedding), there
is no such layer: one is put there, of which the weight is the identity.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from fxprune.errors import PlanError
from fxprune.graph.nodes import argument, attribute, module_path
from fxprune.graph.operators import operator_name
from fxprune.graph.tensors import set_parameter
from fxprune.label.groups import Analysis
from fxprune.passes.contract import InPlacePass
from fxprune.passes.facts import Facts
from fxprune.passes.norm_readers import NormReaders, channels_along, is_own
from fxprune.rules.linear import LINEAR, NORMS

aten = torch.ops.aten
LAYER = "aten.layer_norm"
READS_ON = LINEAR | NORMS | {LAYER}
"""What may read a map: all that a stream goes on through, and layers."""


@dataclass(frozen=True)
class Place:
    """Where a map may stand.

    Attributes:
        name: of the map, as a module.
        source: what it reads.
        users: what reads it in place of the source.
    """

    name: str
    source: Node
    users: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class InsertMaps(InPlacePass):
    """Put identity layers (size, size) behind norms and tables, where `FoldNorms` needs a layer.

    Requires a captured graph and its analysis, which does not hold for the result; ensures equal
    outputs, and all tensors that there were.

    Attributes:
        analysis: of the graph that is passed in.
        streams: names of the channel groups whose norms are looked at.
        chosen: names of the maps that are put in; all by default.
        inserted: filled by the call: names of the maps that were put in.
    """

    analysis: Analysis
    streams: Collection[str]
    chosen: Collection[str] | None = None
    inserted: list[str] = field(default_factory=list)

    @torch.no_grad()
    def call(self, module: GraphModule) -> PassResult:
        """All places are looked for before the first is taken."""
        for place in self._places(module):
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

    def _places(self, module: GraphModule) -> list[Place]:
        """Behind norms, in the order of the graph, then behind tables."""
        owner, names = self.analysis.group_of(), [g.name for g in self.analysis.groups]
        places, taken, tables = list[Place](), set[str](), dict[Node, None]()
        for norm in module.graph.nodes:
            ids = self._normalized(norm)
            if ids is None or owner[ids[0]] < 0 or names[owner[ids[0]]] not in self.streams:
                continue
            places += self._behind(module, norm, taken)
            if operator_name(norm.target) == LAYER:
                tables |= dict.fromkeys(self._tables(module, ids))
        for call in tables:
            users = tuple(call.users)
            path = str(argument(call, 0).target).rpartition(".")[0]
            places.append(Place(_free_name(module, path, taken), call, users))
        return places

    def _normalized(self, node: Node) -> np.ndarray | None:
        """Ids of the channels that a norm normalizes; None for what is no norm of one axis."""
        if operator_name(node.target) not in {LAYER, *NORMS}:
            return None
        if len(cast(list[int], argument(node, 1))) != 1:
            return None
        return channels_along(self.analysis.values[cast(Node, node.args[0]).name], -1)

    def _behind(self, module: GraphModule, norm: Node, taken: set[str]) -> Iterator[Place]:
        """Where something reads a norm that its scale and shift cannot go into."""
        scale = argument(norm, 2)
        shift = argument(norm, 3) if operator_name(norm.target) == LAYER else None
        if not any(is_own(item) for item in (scale, shift)):
            return
        unfit = NormReaders.of(self.analysis, norm, scale, shift, True).unfit
        for source in dict.fromkeys(unfit.values()):
            users = tuple(user for user, read in unfit.items() if read is source)
            users = tuple(u for u in users if operator_name(u.target) in READS_ON)
            if users and channels_along(self.analysis.values[source.name], -1) is not None:
                tensor: Any = scale if is_own(scale) else shift
                path = str(tensor.target).rpartition(".")[0] or module_path(norm)
                yield Place(_free_name(module, path, taken), source, users)

    def _tables(self, module: GraphModule, ids: np.ndarray) -> Iterator[Node]:
        """Calls that pick rows of a weight that writes a layer norm's stream and something else
        reads too: the mean cannot be taken from it.
        """
        for node in module.graph.nodes:
            if not is_own(node) or not self._carries(node, ids):
                continue
            writing = [user for user in node.users if self._carries(user, ids)]
            if len(writing) < len(node.users):
                yield from (u for u in writing if operator_name(u.target) == "aten.embedding")

    def _carries(self, node: Node, ids: np.ndarray) -> bool:
        """Whether a node's last axis has these channels."""
        found = channels_along(self.analysis.values.get(node.name), -1)
        return found is not None and np.array_equal(np.sort(found), np.sort(ids))

    def _insert(self, module: GraphModule, place: Place) -> None:
        value = self.analysis.values[place.source.name]
        weight = f"{place.name}.weight"
        device = next(module.parameters()).device
        identity = torch.eye(value.shape[-1], dtype=value.dtype, device=device)
        set_parameter(module, weight, nn.Parameter(identity))
        with module.graph.inserting_after(place.source):
            held = module.graph.get_attr(weight)
        held.meta = {"val": attribute(module, weight).detach().to("meta")}
        with module.graph.inserting_after(held):
            call = module.graph.call_function(aten.linear.default, (place.source, held))
        call.meta = dict(place.source.meta)
        place.source.replace_all_uses_with(call, lambda user: user in place.users)


def _free_name(module: GraphModule, path: str, taken: set[str]) -> str:
    """What a map beside a module is called."""
    names = {name for name, _ in module.named_modules()} | taken
    first = name = f"{path or 'norm'}_map"
    number = 2
    while name in names:
        name, number = f"{first}{number}", number + 1
    taken.add(name)
    return name
