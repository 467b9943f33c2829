"""Station 3: what the original gives on the fitting examples, kept once for every later fit and
trial.

A fit needs each layer's outputs at a sample of positions only, and a trial the model's outputs:
with those kept, the original runs once over the examples however many plans are tried.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from fxprune.calibrate.observe import arguments
from fxprune.calibrate.spill import Spill
from fxprune.capture.batch import Batch
from fxprune.graph.convolution import channel_dim
from fxprune.graph.nodes import attribute
from fxprune.label.layers import own_layers

ROWS = 12
"""Observations per feature that enter a fit (the solution's error falls with their square root)."""
VALIDATION = "validation"
"""The part of the examples that judges fits and plans."""
FEWEST_ROWS, PLENTY = 6144, 128
"""Observations that enter even a small layer's fit, where there are as many; but no more than so
many per feature.
"""


def rows_per_example(features: int, calls: int, examples: int) -> float:
    """Positions sampled from every example for a layer with so many unknowns per output, in each
    of its calls.
    """
    return max(ROWS * features, min(FEWEST_ROWS, PLENTY * features)) / (calls * examples)


@dataclass
class Chunk:
    """Examples that go through a model together.

    Attributes:
        part: which part of the examples these belong to; `VALIDATION` takes no part in what it
            judges.
        first, size: number of the first example, and how many.
        inputs: handles of what the graph's placeholders take.
        samples: by call, handles of sampled positions in its output and of the output there.
        outputs: handles of the model's flat outputs, of the examples that judge.
    """

    part: str
    first: int
    size: int
    inputs: list[Any]
    samples: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    outputs: list[Any] = field(default_factory=list)


class Recording:
    """Fills its chunks while somebody else runs the original over `follow(...)`, with `watch`
    called on its nodes' results.

    Args:
        module: the captured graph.
        examples: how many there will be.
        store: where everything is held.
        seed: of the choice of positions.
    """

    def __init__(self, module: GraphModule, examples: int, store: Spill, seed: int = 0):
        self.store, self.examples, self.chunks = store, examples, list[Chunk]()
        self._module = module
        self._tables: dict[str, _Table] = {}
        self._generator = torch.Generator().manual_seed(seed)
        self.watch: dict[str, Callable[[Any], None]] = {"output": self._outputs}
        for layer in own_layers(module).values():
            weight = attribute(module, layer.weight)
            wanted = rows_per_example(weight[0].numel(), len(layer.calls), examples)
            for call in layer.calls:
                self.watch[call.name] = self._sampler(
                    call.name, channel_dim(call, weight.dim()), wanted
                )

    def follow(self, part: str, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Hand batches on; what is watched until the next one belongs to this."""
        for batch in batches:
            first = self.chunks[-1].first + self.chunks[-1].size if self.chunks else 0
            self.chunks.append(
                Chunk(
                    part,
                    first,
                    batch.size,
                    [self.store.put(x) for x in arguments(self._module, batch)],
                )
            )
            yield batch

    def sample(self, chunk: Chunk, call: str) -> tuple[Tensor, Tensor]:
        """Positions in a call's output, (dimensions without the channels, picks) in random order,
        and the original's outputs there, (picks, channels).
        """
        places, targets = (self.store.get(item) for item in chunk.samples[call])
        return places, targets

    def outputs(self, chunk: Chunk) -> Any:
        """The original's outputs on a chunk, as the model returns them."""
        return self._module.graph.process_outputs([self.store.get(leaf) for leaf in chunk.outputs])

    def _sampler(self, name: str, dim: int, per_example: float) -> Callable[[Tensor], None]:
        def sample(value: Tensor) -> None:
            chunk, generator = self.chunks[-1], self._generator
            positions = value.movedim(dim, -1)
            total = positions[..., 0].numel()
            wanted = math.ceil(per_example * (chunk.first + chunk.size)) - math.ceil(
                per_example * chunk.first
            )
            # One from every stretch of as many positions: all examples and parts of an image are
            # seen alike.
            pick = torch.randperm(min(wanted, total), generator=generator)
            if total > wanted:
                within = torch.rand(wanted, generator=generator, dtype=torch.float64)
                pick = ((pick + within) * (total / wanted)).long().clamp(max=total - 1)
            at = torch.stack(torch.unravel_index(pick, positions.shape[:-1]))
            targets = positions.reshape(total, -1).index_select(0, pick.to(value.device))
            if name not in self._tables:
                self._tables[name] = _Table(
                    self.store, math.ceil(per_example * self.examples), at, targets
                )
            chunk.samples[name] = self._tables[name].add(at, targets)

        return sample

    def _outputs(self, values: Any) -> None:
        chunk = self.chunks[-1]
        if chunk.part == VALIDATION:
            chunk.outputs = [self.store.put(leaf) for leaf in values]


class _Table:
    """Samples of one call in one piece: many small tensors that stay, made between large ones that
    go, would fragment the memory.

    Args:
        store: where there is room for it, or for its parts.
        most: samples there will be at most.
        places, targets: the first ones.
    """

    def __init__(self, store: Spill, most: int, places: Tensor, targets: Tensor):
        self._store, self._used = store, 0
        self._places = store.empty((len(places), most), places)
        self._targets = store.empty((most, targets.shape[1]), targets)

    def add(self, places: Tensor, targets: Tensor) -> tuple[Any, Any]:
        """Handles of further samples."""
        if self._places is None or self._targets is None:
            return self._store.put(places), self._store.put(targets)
        own = slice(self._used, self._used + len(targets))
        self._used = own.stop
        return self._places[:, own].copy_(places), self._targets[own].copy_(targets)
