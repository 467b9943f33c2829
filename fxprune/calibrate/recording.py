"""What the original gives on the fitting examples, kept for every later fit and trial.

A fit needs each layer's outputs at a sample of positions only, and a trial the model's outputs:
with those kept, the original runs once over the examples however many plans are tried.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.fx import GraphModule

from fxprune.calibrate.batching import Place, seed_of
from fxprune.calibrate.observe import arguments
from fxprune.calibrate.padding import EVERYWHERE, Padding
from fxprune.calibrate.spill import Spill
from fxprune.calibrate.table import Table
from fxprune.capture.batch import Batch
from fxprune.distributed.sums import BY_ITSELF, Sums
from fxprune.graph.convolution import channel_dim
from fxprune.graph.nodes import attribute
from fxprune.label.layers import own_layers

T = TypeVar("T")

VALIDATION = "validation"
"""The part of the examples on which ridges and plans are compared."""
ROWS = 12
"""Observations per feature that enter a fit (docs/decisions/0013).

The solution's error falls with their square root.
"""
FEWEST_ROWS = 6144
"""Observations that enter even a small layer's fit, where there are as many (0013)."""
MOST_ROWS = 128
"""Observations per feature that are enough for any layer's fit (docs/decisions/0014)."""

PLACE = 8
"""Bytes of one number of a position."""
RUNS = 3
"""Runs of neighbors that a rank records, one of every part: each may have one sample more than its
share.
"""
LARGEST_SYSTEM = 6144
"""Equations that one fit solves at most: as many as unknowns per output, or as rows."""
LARGEST_SHARE, LEAST_WORK = 0.5, 1e10
"""What the products of one layer's fit take at most: a share of what the model does to the fitting
examples, but always so many FLOPs, which no one waits for (docs/decisions/0025).
"""


def rows_per_example(features: int, calls: int, examples: int, work: float = math.inf) -> float:
    """Positions sampled from every example in each call of a layer.

    Products of features cost rows x features^2, those of rows rows^2 x features: where the first
    are too many for the work, there are fewer rows than features, and the second are made
    (`linalg.wide_refit`).

    Args:
        features: unknowns per output.
        calls: of the layer.
        examples: in all.
        work: FLOPs of the model on them.
    """
    wanted = max(ROWS * features, min(FEWEST_ROWS, MOST_ROWS * features))
    allowed = max(LARGEST_SHARE * work, LEAST_WORK)
    affordable = allowed / features**2
    if features > LARGEST_SYSTEM or affordable < features:
        affordable = min(math.sqrt(allowed / features), LARGEST_SYSTEM)
    return min(wanted, affordable) / (calls * examples)


@dataclass
class Chunk:
    """Examples that go through a model together.

    Attributes:
        part: which part of the examples these belong to; none of `VALIDATION` is fitted on while
            fits are compared on it.
        first, size: number of the first example, and how many.
        inputs: handles of what the graph's placeholders take.
        samples: by call, handles of sampled positions in its output and of the output there.
        picks: by call, how many these are.
        outputs: handles of the model's flat outputs; kept of `VALIDATION` alone.
        leaf: of the tree in which sums over chunks are added.
        real: (size, length) bool, which tokens are no padding; None where nothing says so.
    """

    part: str
    first: int
    size: int
    inputs: list[Any]
    samples: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    picks: dict[str, int] = field(default_factory=dict)
    outputs: list[Any] = field(default_factory=list)
    leaf: int = 0
    real: Tensor | None = None


class Recording:
    """Inputs, sampled layer outputs and model outputs of the original, chunk by chunk.

    A recording does not run the model: somebody else does, over the batches that `follow` hands
    on, and calls `watch` on the results of the nodes that it names. Of several ranks each records
    the batches that it works on.

    Args:
        module: the captured graph.
        examples: how many there will be.
        store: where everything is held.
        seed: of the choice of positions.
        work: FLOPs of the module on all examples, which bound those of one layer's fit.
        padding: whose positions are not looked at.
        sums: who works on which chunks.
        own: examples that this rank will record; all by default.

    Attributes:
        chunks: what was recorded so far.
        everywhere: chunks of all ranks, without what they hold; once all is recorded.
        watch: callbacks by the names of nodes.
    """

    def __init__(
        self,
        module: GraphModule,
        examples: int,
        store: Spill,
        seed: int = 0,
        work: float = math.inf,
        padding: Padding = EVERYWHERE,
        sums: Sums = BY_ITSELF,
        own: int | None = None,
    ):
        self.store, self.examples, self.chunks, self.sums = store, examples, list[Chunk](), sums
        self.everywhere = self.chunks
        self._own = examples if own is None else own
        self._module, self._work, self.padding = module, work, padding
        self._tables: dict[str, Table] = {}
        self._wanted: dict[str, float] = {}
        self._row_bytes: dict[str, int] = {}
        self._generator, self._seed = torch.Generator(), seed
        self.watch: dict[str, Callable[[Any], None]] = {"output": self._keep_outputs}
        for layer in own_layers(module).values():
            weight = attribute(module, layer.weight)
            wanted = self.rows_per_example(weight[0].numel(), len(layer.calls))
            for call in layer.calls:
                dim, value = channel_dim(call, weight.dim()), call.meta["val"]
                self._wanted[call.name] = wanted
                own = int(value.shape[dim]) * weight.element_size()
                self._row_bytes[call.name] = own + PLACE * (value.dim() - 1)
                self.watch[call.name] = functools.partial(self._keep_sample, call.name, dim)

    def rows_per_example(self, features: int, calls: int) -> float:
        """Positions sampled from every example in each call of a layer, for so many unknowns."""
        return rows_per_example(features, calls, self.examples, self._work)

    @property
    def expected_bytes(self) -> int:
        """Of all samples together, at most."""
        wanted = self._wanted.items()
        return sum(math.ceil(w * self.examples) * self._row_bytes[call] for call, w in wanted)

    def follow(
        self, part: str, batches: Iterable[tuple[Place, Batch]]
    ) -> Iterator[tuple[Place, Batch]]:
        """Hand batches on, each with a chunk of its own to record into until the next one.

        Args:
            part: of the examples, that these batches are.
            batches: what the original will be run on.
        """
        for place, batch in batches:
            inputs = [self.store.put(x) for x in arguments(self._module, batch)]
            chunk = Chunk(part, place.first, batch.size, inputs, real=batch.real, leaf=place.leaf)
            self.chunks.append(chunk)
            self._generator.manual_seed(seed_of(self._seed, place))
            yield place, batch

    def hold_by_itself(self) -> None:
        """One rank holds all chunks so far, which several record."""
        self.sums = BY_ITSELF
        self._own = sum(chunk.size for chunk in self.chunks if chunk.part != VALIDATION)

    def finish(self) -> None:
        """Everything is recorded: put it in the order of sums, and tell the other ranks of it."""
        self.chunks.sort(key=lambda chunk: chunk.leaf)
        if self.sums.group.size > 1:
            own = [replace(c, inputs=[], samples={}, outputs=[], real=None) for c in self.chunks]
            found = self.sums.group.gather(own, "recording")
            self.everywhere = [chunk for chunks in found for chunk in chunks]

    def of_all(self, own: Iterable[tuple[Chunk, T]], what: str) -> list[T]:
        """What every rank tells of its chunks, in the order of chunks.

        Args:
            own: of this rank.
            what: names the exchange.
        """
        told = self.sums.group.gather([(chunk.first, item) for chunk, item in own], what)
        every = [pair for ranks in told for pair in ranks]
        return [item for _, item in sorted(every, key=lambda pair: pair[0])]

    def sample(self, chunk: Chunk, call: str) -> tuple[Tensor, Tensor]:
        """The recorded sample of a call's outputs.

        Returns:
            positions, (dimensions without the channels, picks) in random order, and the
            original's outputs there, (picks, channels).
        """
        places, targets = (self.store.get(item) for item in chunk.samples[call])
        return places, targets

    def outputs(self, chunk: Chunk) -> Any:
        """The original's outputs on a chunk, as the model returns them."""
        return self.as_returned([self.store.get(leaf) for leaf in chunk.outputs])

    def as_returned(self, outputs: Any) -> Any:
        """Flat outputs of a graph of this one's signature, as the model returns them."""
        return self._module.graph.process_outputs(outputs)

    def recall(
        self, chunk: Chunk, samples: Mapping[str, tuple[Tensor, Tensor]], outputs: Iterable[Any]
    ) -> None:
        """Take for a chunk what was recorded of it before, in place of running the original.

        Args:
            chunk: without samples.
            samples: as `sample` gives them, by call.
            outputs: the model's flat outputs, where they were kept.
        """
        for name, (places, targets) in samples.items():
            self._hold(chunk, name, places, targets)
        chunk.outputs = [self.store.put(leaf) for leaf in outputs]

    def _keep_sample(self, name: str, dim: int, value: Tensor) -> None:
        """Record a call's output at positions drawn from it.

        Args:
            name: of the call.
            dim: of its channels.
            value: its output on the current chunk.
        """
        chunk, per_example = self.chunks[-1], self._wanted[name]
        positions = value.movedim(dim, -1)
        real = self.padding.positions(name, value, dim, chunk.real)
        total = positions[..., 0].numel() if real is None else len(real)
        wanted = math.ceil(per_example * (chunk.first + chunk.size)) - math.ceil(
            per_example * chunk.first
        )
        pick = _one_per_stretch(total, wanted, self._generator)
        pick = pick if real is None else real.to(pick.device)[pick]
        places = torch.stack(torch.unravel_index(pick, positions.shape[:-1]))
        targets = positions.flatten(0, -2).index_select(0, pick.to(value.device))
        self._hold(chunk, name, places, targets)

    def _hold(self, chunk: Chunk, name: str, places: Tensor, targets: Tensor) -> None:
        """Put a call's sample beside those of the chunks before."""
        if name not in self._tables:
            each = self._wanted[name]
            if len(targets) < math.floor(each * chunk.size):  # there are no more positions
                each = len(targets) / chunk.size
            most = math.ceil(each * self._own)
            if self._own < self.examples:
                most += RUNS
            self._tables[name] = Table(self.store, most, places, targets)
        chunk.samples[name] = self._tables[name].add(places, targets)
        chunk.picks[name] = len(targets)

    def _keep_outputs(self, values: Any) -> None:
        chunk = self.chunks[-1]
        if chunk.part == VALIDATION:
            chunk.outputs = [self.store.put(leaf) for leaf in values]


def _one_per_stretch(total: int, wanted: int, generator: torch.Generator) -> Tensor:
    """Draw (wanted,) of so many positions in random order, or all where there are no more.

    One is drawn from each of as many equal stretches, so that all examples and all parts of an
    image are seen alike (docs/decisions/0013).
    """
    stretch = torch.randperm(min(wanted, total), generator=generator)
    if total <= wanted:
        return stretch
    within = torch.rand(wanted, generator=generator, dtype=torch.float64)
    return ((stretch + within) * (total / max(wanted, 1))).long().clamp(max=total - 1)
