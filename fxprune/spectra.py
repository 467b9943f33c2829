"""Station 3b: how the outputs of layers spread over the calibration data."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule

from fxprune.calibrate import Observer, arguments
from fxprune.inputs import Batch
from fxprune.layers import Layer, channel_dim
from fxprune.layout import second_moment
from fxprune.propagation import attribute


@dataclass(frozen=True)
class Spread:
    """Second moments of a layer's outputs, examples and positions as rows.

    Attributes:
        moment: sum of y y^T, (o, o) float64.
        total: sum of y, (o,) float64.
        rows: how many.
    """

    moment: Tensor
    total: Tensor
    rows: int

    def covariance(self, centred: bool) -> Tensor:
        """Of the outputs, (o, o); about zero where they cannot be shifted."""
        mean = self.total / max(self.rows, 1)
        return self.moment / max(self.rows, 1) - (torch.outer(mean, mean) if centred else 0)


def spreads(module: GraphModule, layers: dict[str, Layer], batches: Iterable[Batch]) -> dict[str, Spread]:
    """Stream batches once; memory does not depend on their number.

    Args:
        module: the captured graph.
        layers: by the name of their weight.
        batches: calibration examples.
    """
    found: dict[str, Spread] = {}

    def observe(layer: Layer) -> Callable[[Tensor], None]:
        dim = channel_dim(layer.node, attribute(module, layer.weight).dim())

        def add(value: Tensor) -> None:
            rows = value.movedim(dim, -1).reshape(-1, value.shape[dim])
            new = torch.from_numpy(second_moment(rows, rows)), rows.sum(0, dtype=torch.float64).cpu(), len(rows)
            old = found.get(layer.weight)
            found[layer.weight] = Spread(*new) if old is None else Spread(old.moment + new[0], old.total + new[1], old.rows + new[2])

        return add

    observer = Observer(module, {layer.node.name: observe(layer) for layer in layers.values()})
    with torch.no_grad():
        for batch in batches:
            observer.run(*arguments(module, batch), enable_io_processing=False)
    return found
