"""How the outputs of layers spread over the calibration data."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fxprune.calibrate.recording import Recording
from fxprune.label.layers import Layer
from fxprune.linalg.gram import second_moment


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
    settle: Callable[[Tensor], Tensor] = lambda moment: moment,
) -> dict[str, OutputMoments]:
    """From the recorded outputs of each layer's first call.

    Args:
        layers: by the name of their weight.
        settle: finds a place for a tensor that stays.
    """
    found = {}
    for name, layer in layers.items():
        rows = torch.cat(
            [recording.sample(chunk, layer.node.name)[1] for chunk in recording.chunks]
        )
        moment = settle(torch.from_numpy(second_moment(rows)))
        total = rows.sum(0, dtype=torch.float64).cpu()
        found[name] = OutputMoments(moment, total, len(rows))
    return found
