"""Rows of a layer that has more unknowns per output than rows are sampled: the rows stay, and
features pass by in blocks of channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from fxprune.fit.execution import Execution
from fxprune.fit.rows import read_features, split_groups
from fxprune.fit.samples import Sample, sample_rows
from fxprune.graph.convolution import LINEAR, groups
from fxprune.graph.operators import operator_name
from fxprune.label.layers import Layer
from fxprune.linalg.wide_refit import WideRows

BLOCK_BYTES, BLOCK_COLUMNS = 1 << 27, 1 << 13
"""Most of a block of features: bytes, and columns, which are summed in their own precision."""


def gather_rows(layer: Layer, execution: Execution, fixed: Tensor | None) -> WideRows | None:
    """All sampled rows of a layer, over all of its calls and chunks, of all ranks.

    Args:
        layer: of the original graph.
        execution: has run up to the layer's inputs.
        fixed: what the layer adds to its outputs and is not fitted; None for nothing.

    Returns:
        None where outputs cannot be matched to the original's, or no rows are there.
    """
    weight = execution.reduction.tensor(layer.weight)
    count = groups(execution.reduction.reduced_nodes[layer.node.name])
    gathered: list[tuple[Node, list[Sample]]] = []
    for call in layer.calls:
        kept = execution.reduction.kept(call)
        if kept is None:
            return None
        samples = sample_rows(layer, call, kept, execution)
        gathered.append((call, [sample for sample, _ in samples]))
    every = [
        told
        for _, samples in gathered
        for told in execution.recording.of_all(
            [(s.chunk, (s.target, _validates(s, execution))) for s in samples], "rows"
        )
    ]
    targets = torch.cat([target for target, _ in every]).to(execution.where(weight))
    validates = torch.cat([validates for _, validates in every])
    if bool(validates.all()) or not bool(validates.any()):
        return None
    targets = targets if fixed is None else targets - fixed.to(targets.device)
    features = _Features(execution, gathered, weight.shape[2:], count, weight.shape[1], targets)
    return WideRows(
        weight[0].numel(),
        features.blocks,
        split_groups(targets, count),
        validates.to(targets.device),
    )


def _validates(sample: Sample, execution: Execution) -> Tensor:
    mask = torch.zeros(len(sample.target), dtype=torch.bool)
    for validates, rows in sample.roles(execution.everywhere):
        mask[rows] = validates
    return mask


@dataclass(frozen=True)
class _Features:
    """What a layer reads at sampled positions, a block of channels after the other.

    Attributes:
        execution: has run up to the layer's inputs.
        gathered: the samples of every call, one of every chunk.
        kernel: sizes of the weight's kernel axes.
        groups: of the convolution.
        channels: that each of them reads.
        targets: of the samples of all ranks.
    """

    execution: Execution
    gathered: list[tuple[Node, list[Sample]]]
    kernel: tuple[int, ...]
    groups: int
    channels: int
    targets: Tensor

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Numbers (b,) of features, ordered as in `to_matrices`, and their columns (g, r, b)."""
        taps = 1
        for size in self.kernel:
            taps *= size
        bytes_each = 8 * taps * max(len(self.targets), 1) * self.groups
        step = max(1, min(BLOCK_BYTES // bytes_each, BLOCK_COLUMNS // taps))
        for first in range(0, self.channels, step):
            own = torch.arange(first, min(first + step, self.channels))
            index = (torch.arange(taps)[:, None] * self.channels + own).flatten()
            yield index, self._columns(own)

    def _columns(self, own: Tensor) -> Tensor:
        """The columns of some channels of every group, (g, r, taps x channels)."""
        wanted = (torch.arange(self.groups)[:, None] * self.channels + own).flatten()
        every = []
        for call, samples in self.gathered:
            source = call.args[0]
            assert isinstance(source, Node)
            linear = operator_name(call.target) == LINEAR
            parts = []
            for sample, (_, x) in zip(samples, self.execution.values(source.name), strict=True):
                dim = x.dim() - 1 - (0 if linear else len(self.kernel))
                x = x.index_select(dim, wanted.to(x.device))
                features = read_features(call, x, self.kernel, sample.at)
                parts.append((sample.chunk, split_groups(features, self.groups)))
            every += self.execution.recording.of_all(parts, "rows")
        columns = torch.cat(every, 1).to(self.targets.device)
        return columns.float() if columns.dtype in (torch.float16, torch.bfloat16) else columns
