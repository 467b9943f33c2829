"""Where linear layers that change nothing let streams be rotated: behind norms whose scale and
shift no other layer can take, and at the edges of streams that something else than weights writes
or that is read in the coordinates that there are.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule, Node

from fxprune.graph.nodes import argument, module_path
from fxprune.graph.operators import operator_name
from fxprune.label.groups import Analysis
from fxprune.passes.norm_readers import NormReaders, channels_along, dim_of, is_own
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
    """

    name: str
    source: Node
    users: tuple[Node, ...]
    dim: int
    flops: float


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
        self._norms = dict[Node, StreamEdges]()
        for node in module.graph.nodes:
            ids = normalized(analysis, node)
            if ids is not None and node not in self._norms:
                stream = StreamEdges.of(analysis, node, ids)
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
            for source in dict.fromkeys(found.unfit.values()):
                users = tuple(user for user, read in found.unfit.items() if read is source)
                last = channels_along(self._analysis.values[source.name], -1) is not None
                if last and self._serves(norm, users, bool(found.readers)):
                    tensor: Any = scale if is_own(scale) else shift
                    path = str(tensor.target).rpartition(".")[0] or module_path(norm)
                    dim = self._analysis.values[source.name].rank - 1
                    yield self._place(path or "norm", source, users, dim)

    def at_edges(self) -> Iterator[Place]:
        """Where a stream is written by what is not linear, or read by what is not."""
        for stream in self._turning.values():
            for edges in (stream.written, stream.read):
                for source, users in edges.items():
                    if source in self._norms:  # behind which there may be a map already
                        continue
                    shared = stream.shared(source)
                    path = module_path(source)
                    if shared is not None:
                        path = str(shared.target).rpartition(".")[0]
                    dim = dim_of(self._analysis.values[source.name], stream.ids)
                    assert dim is not None
                    yield self._place(path or "stream", source, tuple(users), dim)

    def _serves(self, norm: Node, users: tuple[Node, ...], read: bool) -> bool:
        """Whether a map behind a norm reads a stream that others read too, or writes one.

        Args:
            norm: a call.
            users: that the map would be read by.
            read: whether the norm has other readers.
        """
        own = self._norms[norm]
        if own.turns and (read or len(own.norms) > 1 or own.layers or own.read):
            return True
        written = (s for s in self._turning.values() if s is not own)
        return any(user in s.inside for s in written for user in users)

    def _place(self, path: str, source: Node, users: tuple[Node, ...], dim: int) -> Place:
        names = {name for name, _ in self._module.named_modules()} | self._taken
        first = name = f"{path}_map"
        number = 2
        while name in names:
            name, number = f"{first}{number}", number + 1
        self._taken.add(name)
        shape = self._analysis.values[source.name].shape
        flops = 2 * math.prod(shape) * shape[dim] / self._analysis.batch
        return Place(name, source, users, dim, flops)
