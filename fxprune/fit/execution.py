"""The reduced graph's calls, executed on every chunk of examples between two fits."""

from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from fxprune.calibrate.recording import Chunk, Recording
from fxprune.calibrate.running import Workplace, workplace
from fxprune.fit.reduction import Reduction
from fxprune.graph.nodes import attribute


class Execution:
    """Values of the reduced graph on every chunk, as far as it has run; those that nothing ahead
    reads are let go.

    Args:
        reduction: the graphs.
        order: the original graph's nodes in the order in which they will run.
        recording: of the original graph's outputs; values are put into its store.
        chunks: those of the recording to run on.
        everywhere: those that all ranks together run on, without what they hold; of these, the
            attribute has those that fits look at.
        returns: whether `outputs` will be asked for.
        unread: numbers of the first examples of chunks that fits do not look at.
    """

    def __init__(
        self,
        reduction: Reduction,
        order: Sequence[Node],
        recording: Recording,
        chunks: Sequence[Chunk],
        everywhere: Sequence[Chunk] | None = None,
        returns: bool = False,
        unread: Container[int] = (),
    ):
        self.reduction, self.recording, self.chunks = reduction, recording, chunks
        every = chunks if everywhere is None else everywhere
        self.everywhere = [chunk for chunk in every if chunk.first not in unread]
        self._unread = unread
        self._store = recording.store
        self._inputs = [node.name for node in order if node.op == "placeholder"]
        self._done_after = _last_uses(order, reduction.constant.union(self._inputs))
        ends = reduction.original.graph.output_node().all_input_nodes if returns else ()
        self._returned = {source.name for source in ends}
        self._handles: list[dict[str, Any]] = [
            dict(zip(self._inputs, chunk.inputs, strict=True)) for chunk in chunks
        ]

    @cached_property
    def _work(self) -> Workplace | None:
        inputs = (self._store.get(x) for chunk in self.chunks[:1] for x in chunk.inputs)
        return workplace(self.reduction.original, inputs)

    def where(self, weight: Tensor) -> torch.device:
        """On which device calls read a weight, and its fit is made."""
        return weight.device if self._work is None else self._work.device

    def run(self, calls: Sequence[Node]) -> None:
        """Execute calls of the original graph as the reduced one has them.

        Chunk after chunk: what only they need stays small, and in the processor's cache
        (docs/decisions/0013).
        """
        for chunk, handles in zip(self.chunks, self._handles, strict=True):
            fresh = self._run(calls, chunk, handles)
            handles.update((name, self._store.put(value)) for name, value in fresh.items())

    def outputs(self, calls: Sequence[Node]) -> Iterator[tuple[Chunk, Any]]:
        """Every chunk of which the original's outputs are recorded, with what the reduced graph
        returns, flat.

        Args:
            calls: that have not run yet; they run on these chunks alone.
        """
        (returned,) = self.reduction.reduced.graph.output_node().args
        for chunk, handles in zip(self.chunks, self._handles, strict=True):
            if chunk.outputs:
                fresh = self._run(calls, chunk, handles)
                yield chunk, map_arg(returned, partial(self._value, handles, fresh))

    def values(self, name: str) -> Iterator[tuple[Chunk, Any]]:
        """Every chunk that fits look at, with the value of a node that has run and is still to be
        read, or depends on no input.
        """
        node = self.reduction.reduced_nodes[name]
        for chunk, handles in zip(self.chunks, self._handles, strict=True):
            if chunk.first in self._unread:
                continue
            value = self._value(handles, MappingProxyType({}), node)
            if name in self.reduction.constant and self._work is not None:
                value = value.to(self._work.device)
            yield chunk, value

    def results(self, name: str) -> Iterator[tuple[Chunk, Any]]:
        """Every chunk with what a call whose inputs are there would give now; it is not kept."""
        for chunk, handles in zip(self.chunks, self._handles, strict=True):
            yield chunk, self._call(name, handles)

    def clear(self) -> None:
        """Let everything go but the chunks' inputs, which are the recording's."""
        for handles in self._handles:
            for name in handles.keys() - set(self._inputs):
                self._store.drop(handles.pop(name))

    def _run(self, calls: Sequence[Node], chunk: Chunk, handles: dict[str, Any]) -> dict[str, Any]:
        """What is still to be read of the results of calls on a chunk, by name; what it read for
        the last time is let go.
        """
        fresh: dict[str, Any] = {}
        for call in calls:
            fresh[call.name] = self._call(call.name, handles, fresh)
            for done in self._done_after.get(call.name, ()):
                if chunk.outputs and done in self._returned:
                    continue
                if done in fresh:
                    del fresh[done]
                else:
                    self._store.drop(handles.pop(done))
        return fresh

    def _call(
        self, name: str, handles: Mapping[str, Any], fresh: Mapping[str, Any] = MappingProxyType({})
    ) -> Any:
        """One call on one chunk; weights and what follows from them alone are read afresh, since
        fitting changes them.

        Args:
            name: of the call.
            handles: of the chunk's values, by node.
            fresh: values that are not in the store yet.
        """
        node = self.reduction.reduced_nodes[name]
        value = partial(self._value, handles, fresh)
        given = map_arg(node.args, value), map_arg(node.kwargs, value)
        args, kwargs = given if self._work is None else self._work.gather(given, {})
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def _value(self, handles: Mapping[str, Any], fresh: Mapping[str, Any], source: Node) -> Any:
        """What a node gives to those that read it.

        No closure in `_call`: one that calls itself would keep `fresh` until the next collection.
        """
        if source.op == "get_attr":
            return attribute(self.reduction.reduced, str(source.target))
        if source.name in self.reduction.constant:
            return self._call(source.name, handles, fresh)
        if source.name in fresh:
            return fresh[source.name]
        if source.name not in handles:  # a call that the original graph does not have
            return self._call(source.name, handles, fresh)
        return self._store.get(handles[source.name])


def _last_uses(order: Sequence[Node], stays: frozenset[str]) -> dict[str, list[str]]:
    """Names whose values may go after each node.

    Args:
        order: the nodes in the order in which they run.
        stays: names that never go.
    """
    last: dict[str, str] = {}
    for node in order:
        if node.op == "output":
            continue
        last.setdefault(node.name, node.name)
        for source in node.all_input_nodes:
            last[source.name] = node.name
    done_after: dict[str, list[str]] = defaultdict(list)
    for name, user in last.items():
        if name not in stays:
            done_after[user].append(name)
    return done_after
