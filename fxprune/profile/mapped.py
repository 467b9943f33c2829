"""Graphs of the same function with maps in them: linear layers that change nothing, where streams
need them (`fxprune.passes.InsertMaps`), and what they would cost.
"""

import copy
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule

from fxprune.graph.operators import operator_name
from fxprune.label.analysis import analyze_graph
from fxprune.label.groups import Analysis
from fxprune.label.unpinned import analyze_unpinned
from fxprune.passes import FuseNorms, InsertMaps
from fxprune.passes.facts import tensors_of
from fxprune.passes.map_places import Place, find_places

MAY_NORMALIZE = frozenset({"aten.layer_norm", "aten.rms_norm", "aten.mean"})
"""Norms, and what a forward writes one out with."""


@dataclass(frozen=True, eq=False)
class Mapped:
    """A graph of the same function with maps in it.

    Attributes:
        graph: a copy, with the same tensors.
        analysis: of that graph.
        names: of the maps.
    """

    graph: GraphModule
    analysis: Analysis
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Maps:
    """The maps that a captured graph has places for.

    Attributes:
        source: a copy of the graph, its norms calls, with the same tensors.
        seen: of that copy, nothing pinned.
        places: by name of the map.
    """

    source: GraphModule
    seen: Analysis
    places: Mapping[str, Place]

    @classmethod
    def of(cls, module: GraphModule, analysis: Analysis) -> "Maps | None":
        """Look for places; None where there are none.

        Args:
            module: the captured graph; not changed.
            analysis: of that graph.
        """
        if not any(operator_name(node.target) in MAY_NORMALIZE for node in module.graph.nodes):
            return None
        source = copied(module, sharing=True)
        FuseNorms(analysis)(source)
        seen = analyze_unpinned(source, analysis.batch)
        places = {place.name: place for place in find_places(source, seen)}
        return cls(source, seen, places) if places else None

    def within(self, flops: float) -> tuple[str, ...]:
        """Names of all maps where these cost no more, or of those that are not for streams alone
        that keep their mean, or none.
        """
        for places in (
            list(self.places.values()),
            [place for place in self.places.values() if not place.means],
        ):
            if not sum(place.flops for place in places) > flops:
                return tuple(place.name for place in places)
        return ()

    def insert(self, chosen: Collection[str], ignored: Callable[[str], bool]) -> Mapped | None:
        """The graph with these maps; None where there is no place for one of them.

        Args:
            chosen: names.
            ignored: parameter names that must keep their shape.
        """
        if not set(chosen) <= self.places.keys():
            return None
        wanted = [place for place in self.places.values() if place.name in chosen]
        graph = copied(self.source, sharing=True)
        InsertMaps(self.seen, wanted)(graph)
        analysis = analyze_graph(graph, self.seen.batch, ignored)
        return Mapped(graph, analysis, tuple(place.name for place in wanted))


def copied(module: GraphModule, sharing: bool) -> GraphModule:
    """A copy of a graph, with the same tensors or copies of these."""
    memo: dict[int, Any] = {id(t): t for t in tensors_of(module).values()} if sharing else {}
    with warnings.catch_warnings():
        # torch's own pytree specs warn about themselves when copied.
        warnings.simplefilter("ignore", FutureWarning)
        return copy.deepcopy(module, memo)
