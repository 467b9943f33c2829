"""A layer's sampled rows, call by call and chunk by chunk: where they lie, what the original gave
there, and which of them validate.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node

from fxprune.calibrate.recording import VALIDATION, Chunk
from fxprune.fit.execution import Execution
from fxprune.fit.rows import keep_survivors
from fxprune.graph.convolution import channel_dim
from fxprune.label.layers import Layer

HELD_OUT = 5
"""Where no examples are there to validate the ridge, every fifth does (docs/decisions/0010)."""


@dataclass(frozen=True)
class Sample:
    """One call's sampled rows on one chunk.

    Attributes:
        chunk: the chunk.
        at: (dimensions, rows) positions in the reduced call's output.
        target: (rows, channels) the original's outputs there.
        example: (rows,) numbers of the examples.
    """

    chunk: Chunk
    at: Tensor
    target: Tensor
    example: Tensor

    def roles(self, chunks: Sequence[Chunk]) -> list[tuple[bool, Tensor | slice]]:
        """Which rows are for fitting (False) and which for validating (True).

        Args:
            chunks: all that are fitted on, by any rank.
        """
        if any(chunk.part == VALIDATION for chunk in chunks):
            return [(self.chunk.part == VALIDATION, slice(None))]
        validates = self.example % HELD_OUT == 0
        return [(False, ~validates), (True, validates)]


def sample_rows(
    layer: Layer, call: Node, kept: dict[int, Tensor], execution: Execution
) -> Iterator[tuple[Sample, Tensor]]:
    """The sampled rows of a call, and what it reads: as many as the layer's unknowns ask.

    Args:
        layer: of the original graph.
        call: one of its.
        kept: indices of the call's result that survive, by dimension.
        execution: has run up to the call's input.
    """
    source, recording = call.args[0], execution.recording
    assert isinstance(source, Node)
    weight = execution.reduction.tensor(layer.weight)
    wanted = recording.rows_per_example(weight[0].numel(), len(layer.calls))
    channel = channel_dim(call, weight.dim()) % call.meta["val"].dim()
    for chunk, x in execution.values(source.name):
        at, target = recording.sample(chunk, call.name)
        at = at[:, : math.ceil(wanted * chunk.size)]
        example = at[0] * chunk.size // max(x.shape[0], 1) + chunk.first
        at, target, left = keep_survivors(at, target[: at.shape[1]], kept, channel)
        yield Sample(chunk, at, target, example[left]), x


def count_rows(layer: Layer, execution: Execution) -> int:
    """How many rows of a layer are sampled, at most."""
    recording = execution.recording
    unknowns = execution.reduction.tensor(layer.weight)[0].numel()
    wanted = recording.rows_per_example(unknowns, len(layer.calls))
    return sum(
        min(chunk.picks[call.name], math.ceil(wanted * chunk.size))
        for chunk in execution.everywhere
        for call in layer.calls
    )
