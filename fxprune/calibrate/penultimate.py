"""What a model's last layer reads, of every example: what the model sees in it.

Crops and flips of one photograph differ in every pixel and are alike there.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fxprune.capture.batch import Batch
from fxprune.graph.convolution import channel_dim
from fxprune.graph.nodes import attribute
from fxprune.label.layers import own_layers

MOST_FEATURES = 2048
"""Numbers of one example that are kept at most, evenly spread."""


class Penultimate:
    """Keeps the input of the last layer while somebody else runs the graph.

    Args:
        module: the captured graph.
        chosen: (examples,) bool, whose are kept.

    Attributes:
        watch: callbacks by the names of nodes.
    """

    def __init__(self, module: GraphModule, chosen: np.ndarray):
        self._chosen, self._now = chosen, np.zeros(0, int)
        self._rows, self._numbers = list[Tensor](), list[np.ndarray]()
        self.watch: dict[str, Callable[[Any], None]] = {}
        calls = {call: layer for layer in own_layers(module).values() for call in layer.calls}
        last = next((node for node in reversed(module.graph.nodes) if node in calls), None)
        if last is not None and isinstance(last.args[0], Node):
            self._dim = channel_dim(last, attribute(module, calls[last].weight).dim())
            self.watch[last.args[0].name] = self._keep

    def follow(self, numbered: Iterable[tuple[np.ndarray, Batch]]) -> Iterator[Batch]:
        """Hand batches on, whose examples have these numbers, to be run one after the other."""
        for numbers, batch in numbered:
            self._now = numbers
            yield batch

    def _keep(self, value: Any) -> None:
        if not isinstance(value, Tensor) or value.dim() < 2 or len(value) != len(self._now):
            return
        own = self._chosen[self._now]
        flat = value.detach().movedim(self._dim, -1).flatten(1, -2) if value.dim() > 2 else value
        mean = flat.mean(1) if value.dim() > 2 else flat
        step = math.ceil(mean.shape[1] / MOST_FEATURES)
        self._rows.append(mean[torch.from_numpy(own).to(mean.device), ::step].float().cpu())
        self._numbers.append(self._now[own])

    def table(self) -> tuple[Tensor, np.ndarray]:
        """(examples, features) float32, averaged over positions, and (examples,) their numbers."""
        if len({rows.shape[1] for rows in self._rows}) != 1:
            return torch.zeros(0, 1), np.zeros(0, int)
        return torch.cat(self._rows), np.concatenate(self._numbers)
