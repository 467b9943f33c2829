"""Where linear layers that change nothing let streams be rotated: behind norms whose scale and
shift no other layer can take, and at the edges of streams that something else than weights writes
or that is read in the coordinates that there are.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule, Node

from fxprune.graph.nodes import argument, module_path
from fxprune.graph.operators import operator_name
from fxprune.label.groups import Analysis
from fxprune.passes.fold_scales import FoldScales
from fxprune.passes.norm_readers import NormReaders, dim_of, is_own
from fxprune.passes.stream_edges import LAYER, StreamEdges, normalized


@dataclass(frozen=True)
class Place:
    """Where a map may stand.

    Attributes:
        name: of the map, as a module.
        source: what it reads.
        users: what reads it in place of the source.
        dim: of the source, along which the channels lie.
        flops: of the map, per example.
        means: whether it is for streams alone that keep their mean (`fxprune.passes.KeepMeans`).
    """

    name: str
    source: Node
    users: tuple[Node, ...]
    dim: int
    flops: float
    means: bool


def find_places(module: GraphModule, analysis: Analysis) -> list[Place]:
    """Where maps let streams be rotated: behind norms, in the order of the graph, then at edges.

    Args:
        module: the captured graph.
        analysis: of that graph, as `fxprune.label.unpinned.analyze_unpinned` gives it: what stays
            has no ids otherwise.
    """
    search = _Search(module, analysis)
    return [*search.behind(), *search.at_edges()]


class _Search:
    def __init__(self, module: GraphModule, analysis: Analysis):
        self._module, self._analysis, self._taken = module, analysis, set[str]()
        self._norms, self._mapped = dict[Node, StreamEdges](), set[tuple[Node, Node]]()
        scaled = frozenset(FoldScales(analysis).finds(module))
        for node in module.graph.nodes:
            ids = normalized(analysis, node)
            if ids is not None and node not in self._norms:
                stream = StreamEdges.of(analysis, node, ids, scaled)
                self._norms |= dict.fromkeys(stream.norms, stream)
        self._turning = {id(s): s for s in self._norms.values() if s.turns}

    def behind(self) -> Iterator[Place]:
        """Where something reads a norm that its scale and shift cannot go into."""
        for norm in self._norms:
            scale = argument(norm, 2)
            shift = argument(norm, 3) if operator_name(norm.target) == LAYER else None
            if not any(is_own(item) for item in (scale, shift)):
                continue
            found = NormReaders.of(self._analysis, norm, scale, shift, True)
            tensor: Any = scale if is_own(scale) else shift
            path = str(tensor.target).rpartition(".")[0] or module_path(norm) or "norm"
            for source, users in self._apart(found.unfit):
                dim = dim_of(self._analysis.values[source.name], self._norms[norm].ids)
                served = self._served(norm, users, bool(found.readers))
                if served and dim is not None:
                    self._mapped |= {(source, user) for user in users}
                    means = all(stream.keeps_mean for stream in served)
                    yield self._place(path, source, tuple(users), dim, means)

    def at_edges(self) -> Iterator[Place]:
        """Where a stream is written by what is not linear, or read by what is not."""
        for stream in self._turning.values():
            for edges in (stream.written, stream.read):
                for source, users in edges.items():
                    if source in self._norms:  # behind which there may be a map already
                        continue
                    left = tuple(user for user in users if (source, user) not in self._mapped)
                    shared = stream.shared(source)
                    path = module_path(source)
                    if shared is not None:
                        path = str(shared.target).rpartition(".")[0]
                    dim = dim_of(self._analysis.values[source.name], stream.ids)
                    if left and dim is not None:
                        means = stream.keeps_mean
                        yield self._place(path or "stream", source, left, dim, means)

    def _apart(self, unfit: Mapping[Node, list[Node]]) -> Iterator[tuple[Node, list[Node]]]:
        """What is read of a norm, and calls that may read one map of it: those that belong to one
        stream, and those to none, which need the coordinates that there are.
        """
        for source, users in unfit.items():
            groups = dict[int, list[Node]]()
            for user in users:
                own = (key for key, stream in self._turning.items() if user in stream)
                groups.setdefault(next(own, 0), []).append(user)
            for alike in groups.values():
                yield source, alike

    def _served(self, norm: Node, users: list[Node], read: bool) -> list[StreamEdges]:
        """The streams for which there may be a map behind a norm: what it reads, where that has
        other readers, and what it writes.

        Args:
            norm: a call.
            users: that the map would be read by.
            read: whether the norm has other readers.
        """
        own = self._norms[norm]
        others = read or len(own.norms) > 1 or own.layers or own.read
        found = [own] if own.turns and others else []
        streams = (s for s in self._turning.values() if s is not own)
        return [*found, *(s for s in streams if any(user in s for user in users))]

    def _place(
        self, path: str, source: Node, users: tuple[Node, ...], dim: int, means: bool
    ) -> Place:
        names = {name for name, _ in self._module.named_modules()} | self._taken
        first = name = f"{path}_map"
        number = 2
        while name in names:
            name, number = f"{first}{number}", number + 1
        self._taken.add(name)
        shape = self._analysis.values[source.name].shape
        flops = 2 * math.prod(shape) * shape[dim] / self._analysis.batch
        return Place(name, source, users, dim, flops, means)
