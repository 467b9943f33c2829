"""How the outputs of layers spread over the calibration data."""

from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from fxprune.calibrate.recording import Recording
from fxprune.label.layers import Layer
from fxprune.linalg.gram import second_moment
from fxprune.linalg.tree_sum import Settle


@dataclass(frozen=True)
class OutputMoments:
    """Second moments of a layer's outputs, sampled positions of the examples as rows.

    Attributes:
        moment: sum of y y^T, (o, o) float64.
        total: sum of y, (o,) float64.
        rows: how many.
    """

    moment: Tensor
    total: Tensor
    rows: int

    def covariance(self, centered: bool) -> Tensor:
        """Of the outputs, (o, o); about zero where they cannot be shifted."""
        mean = self.total / max(self.rows, 1)
        return self.moment / max(self.rows, 1) - (torch.outer(mean, mean) if centered else 0)


def output_moments(
    recording: Recording,
    layers: dict[str, Layer],
    settle: Settle | None = None,
) -> dict[str, OutputMoments]:
    """From the recorded outputs of each layer's first call.

    Args:
        layers: by the name of their weight.
        settle: finds a place for sums; without it they are in memory.
    """
    trees = {name: recording.sums.tree(settle) for name in layers}
    leaves = [(leaf, list(chunks)) for leaf, chunks in groupby(recording.chunks, lambda c: c.leaf)]
    for name, layer in layers.items():
        call, tree = layer.node.name, trees[name]
        for leaf, chunks in leaves:
            rows = torch.cat([recording.sample(chunk, call)[1] for chunk in chunks])
            moment = torch.from_numpy(second_moment(rows))
            total = rows.sum(0, dtype=torch.float64).cpu()
            tree.add(leaf, [moment, total, torch.tensor(len(rows))])
        tree.close()
    totals = recording.sums.totals(list(trees.values()), "output moments")
    found = {}
    for name, terms in zip(trees, totals, strict=True):
        assert terms is not None  # some rank has recorded something
        moment, total, count = terms
        found[name] = OutputMoments(moment, total, int(count))
    return found
