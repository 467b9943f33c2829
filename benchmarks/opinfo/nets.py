"""A net around one operator: layers that make its tensors, the operator, and layers that read what
it returns.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.opinfo.variant import Reading, Variant

MADE, READ = "make", "read"
"""Names of the lists of layers before and behind the operator."""
OUTPUTS = 3


class OperatorNet(nn.Module):
    """Linear layers -> operator -> linear layers, in the sample's floating dtype.

    The layers before it have as many inputs as outputs, so that `inputs` can be chosen such that
    the operator gets exactly its sample.

    Args:
        variant: the operator, its sample and where channels go.
        flat: layers behind read all axes but the first as one, where channels are not on that.
    """

    def __init__(self, variant: Variant, flat: bool):
        super().__init__()
        self.variant, self.flat = variant, flat
        made = [(variant.leaves[place], axis) for place, axis in variant.made]
        dtype = made[0][0].dtype
        self.make = nn.ModuleList(_maker(t.shape[axis], t.dtype) for t, axis in made)
        self.read = nn.ModuleList(
            nn.Linear(self._width(reading), OUTPUTS, dtype=dtype) for reading in variant.readings
        )
        self.fixed: dict[int, str] = {}
        places = dict(variant.made)
        for place, leaf in enumerate(variant.leaves):
            if isinstance(leaf, Tensor) and place not in places:
                self.fixed[place] = f"fixed_{place}"
                self.register_buffer(self.fixed[place], leaf.clone())

    def inputs(self) -> tuple[Tensor, ...]:
        """What the layers before the operator make its sample of; (..., channels) each."""
        found = []
        for (place, axis), layer in zip(self.variant.made, self.make, strict=True):
            tensor = self.variant.leaves[place].movedim(axis, -1)
            if tensor.dim() == 1:
                tensor = tensor.expand(2, -1)
            assert isinstance(layer, nn.Linear)
            wanted = (tensor - layer.bias.detach()).unsqueeze(-1)
            solved = torch.linalg.solve(layer.weight.detach(), wanted).squeeze(-1)
            found.append(solved.contiguous().clone())  # a view would be traced as one, slowly
        return tuple(found)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        """What the layers behind the operator make of its results."""
        made = []
        for (place, axis), layer, source in zip(self.variant.made, self.make, inputs, strict=True):
            tensor = layer(source)
            flat = self.variant.leaves[place].dim() == 1
            made.append(tensor[0] if flat else tensor.movedim(-1, axis).contiguous())
        leaves: list[Any] = list(self.variant.leaves)
        for place, name in self.fixed.items():
            leaves[place] = getattr(self, name)
        for (place, _), tensor in zip(self.variant.made, made, strict=True):
            leaves[place] = tensor
        first, args, kwargs = pytree.tree_unflatten(leaves, self.variant.tree)
        result = self.variant.call(first, *args, **kwargs)
        tensors = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
        return [
            self._read(layer, reading, tensors[reading.place])
            for layer, reading in zip(self.read, self.variant.readings, strict=True)
        ]

    def _read(self, layer: nn.Module, reading: Reading, tensor: Tensor) -> Tensor:
        dtype = next(layer.parameters()).dtype
        if tensor.is_complex():
            tensor = tensor.abs()
        if tensor.dtype != dtype:
            tensor = tensor.to(dtype)
        if not reading.finite:
            tensor = torch.nan_to_num(tensor, 0.5, 1.0, -1.0)
        if not reading.shape:
            return tensor
        if self._flattened(reading):
            result: Tensor = layer(tensor.flatten(1))
        else:
            result = layer(tensor.movedim(reading.axis, -1))
        return result

    def _flattened(self, reading: Reading) -> bool:
        return self.flat and len(reading.shape) > 1 and reading.axis > 0

    def _width(self, reading: Reading) -> int:
        if not reading.shape:
            return 1
        if not self._flattened(reading):
            return reading.shape[reading.axis]
        width = 1
        for size in reading.shape[1:]:
            width *= size
        return width


def _maker(channels: int, dtype: torch.dtype) -> nn.Linear:
    """A layer that mixes its inputs, and that can be undone."""
    layer = nn.Linear(channels, channels, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(channels, dtype=dtype) + layer.weight / 4)
    return layer
