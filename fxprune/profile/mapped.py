"""Graphs of the same function with maps in them: linear layers that change nothing, where streams
need them (`fxprune.passes.InsertMaps`), and what they would cost.
"""

import copy
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from torch.fx import GraphModule

from fxprune.graph.tensors import aliases
from fxprune.label.analysis import analyze_graph
from fxprune.label.groups import Analysis
from fxprune.label.unpinned import analyze_unpinned
from fxprune.passes import InsertMaps
from fxprune.passes.map_places import Place, find_places


@dataclass(frozen=True, eq=False)
class Mapped:
    """A graph of the same function with maps in it.

    Attributes:
        graph: a copy, with the tensors of the original.
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
        source: the graph, its norms calls.
        seen: of it, nothing pinned.
        places: by name of the map.
    """

    source: GraphModule
    seen: Analysis
    places: Mapping[str, Place]

    @classmethod
    def of(cls, source: GraphModule, batch: int) -> "Maps":
        """Look for places.

        Args:
            source: a captured graph, its norms calls; not changed.
            batch: examples in the traced batch.
        """
        seen = analyze_unpinned(source, batch)
        return cls(source, seen, {place.name: place for place in find_places(source, seen)})

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
        graph = copied(self.source)
        InsertMaps(self.seen, wanted)(graph)
        analysis = analyze_graph(graph, self.seen.batch, ignored)
        return Mapped(graph, analysis, tuple(place.name for place in wanted))


def copied(module: GraphModule) -> GraphModule:
    """A copy of a graph, whose tensors lie where those of the module lie: neither must be written
    to (`fxprune.graph.tensors.rewrite` does not).
    """
    with warnings.catch_warnings():
        # torch's own pytree specs warn about themselves when copied.
        warnings.simplefilter("ignore", FutureWarning)
        return copy.deepcopy(module, aliases(module))
