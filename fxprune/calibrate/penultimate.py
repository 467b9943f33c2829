"""What a model's last layer reads, of every example: what the model sees in it; and how the values
of the example itself are distributed.

Crops and flips of one photograph differ in every pixel and are alike in both.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fxprune.capture.batch import Batch
from fxprune.distributed.group import ALONE, Group
from fxprune.graph.convolution import channel_dim
from fxprune.graph.nodes import attribute
from fxprune.label.layers import own_layers

MOST_FEATURES = 2048
"""Numbers of one example that are kept at most, evenly spread."""
CHANNELS, VALUES, QUANTILES = 64, 1024, 10
"""Channels of an input and values in each that are looked at, and quantiles that are kept of them.
"""


@dataclass(frozen=True)
class Seen:
    """What is known of some examples.

    Attributes:
        numbers: (examples,) of them.
        features: (examples, features) float32, what the last layer reads, averaged over positions.
        values: (examples, quantiles) float32, the distribution of their inputs' values in every
            channel, wherever they lie.
    """

    numbers: np.ndarray
    features: Tensor
    values: Tensor


class Penultimate:
    """Keeps the input of the last layer, and the values of the model's, while somebody else runs
    the graph.

    Args:
        module: the captured graph.
        chosen: (examples,) bool, whose are kept.

    Attributes:
        watch: callbacks by the names of nodes.
    """

    def __init__(self, module: GraphModule, chosen: np.ndarray):
        self._chosen, self._now, self._inputs = chosen, np.zeros(0, int), list[Tensor]()
        self._kept: list[Seen] = []
        self.watch: dict[str, Callable[[Any], None]] = {}
        calls = {call: layer for layer in own_layers(module).values() for call in layer.calls}
        last = next((node for node in reversed(module.graph.nodes) if node in calls), None)
        if last is not None and isinstance(last.args[0], Node):
            self._dim = channel_dim(last, attribute(module, calls[last].weight).dim())
            self.watch[last.args[0].name] = self._keep

    def follow(self, numbered: Iterable[tuple[np.ndarray, Batch]]) -> Iterator[Batch]:
        """Hand batches on, whose examples have these numbers, to be run one after the other."""
        for numbers, batch in numbered:
            self.start(numbers, batch)
            yield batch

    def start(self, numbers: np.ndarray, batch: Batch) -> None:
        """What is run from now on are these examples."""
        self._now, self._inputs = numbers, batch.tensors()

    def _keep(self, value: Any) -> None:
        examples = len(self._now)
        inputs = [t for t in self._inputs if t.is_floating_point() and t.shape[:1] == (examples,)]
        if not isinstance(value, Tensor) or value.dim() < 2 or len(value) != examples or not inputs:
            return
        own = torch.from_numpy(np.flatnonzero(self._chosen[self._now]))
        if not len(own):
            return
        value = value.detach().index_select(0, own.to(value.device))
        if value.dim() > 2:
            value = value.movedim(self._dim, -1).flatten(1, -2).mean(1)
        features = value[:, :: math.ceil(value.shape[1] / MOST_FEATURES)].float().cpu()
        values = torch.cat([distribution(t.index_select(0, own.to(t.device))) for t in inputs], 1)
        self._kept.append(Seen(self._now[own.numpy()], features, values))

    def seen(self, group: Group = ALONE) -> Seen | None:
        """Of all examples so far, of all ranks; None where there are none, or of several sizes."""
        kept = [seen for own in group.gather(self._kept, "features") for seen in own]
        sizes = {(one.features.shape[1], one.values.shape[1]) for one in kept}
        if len(sizes) != 1:
            return None
        return Seen(
            np.concatenate([one.numbers for one in kept]),
            torch.cat([one.features for one in kept]),
            torch.cat([one.values for one in kept]),
        )


def distribution(inputs: Tensor) -> Tensor:
    """Quantiles of the values in every channel, (examples, channels x quantiles) float32.

    Args:
        inputs: (examples, channels, ...), or (examples, numbers) as one channel.
    """
    flat = inputs.detach().flatten(2) if inputs.dim() > 2 else inputs.detach()[:, None]
    steps = (
        -(-size // most) for size, most in zip(flat.shape[1:], (CHANNELS, VALUES), strict=True)
    )
    channel, step = (max(size, 1) for size in steps)
    ordered = flat[:, ::channel, ::step].float().cpu().sort(2).values
    at = torch.linspace(0.05, 0.95, QUANTILES) * (ordered.shape[2] - 1)
    return ordered[:, :, at.round().long()].flatten(1)
