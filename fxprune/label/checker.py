"""The notebook of a trial: it hands out surviving channels and insists that what meets is equal."""

import numpy as np
import torch
from torch import Tensor

from fxprune.label.survivors import Conflict
from fxprune.rules.labels import FIXED, narrow_constant
from fxprune.rules.recorder import Recorder

SEPARATED = "channels that must stay together were separated"


class Checker(Recorder):
    """Stands where rules expect a recorder; what they would note down must hold already.

    Args:
        axes: surviving channel ids of every parameter axis, as of `kept_axes`.
    """

    def __init__(self, axes: dict[tuple[str, int], np.ndarray]):
        super().__init__()
        self.given = axes

    def axis(self, name: str, shape: tuple[int, ...], axis: int, groups: int = 1) -> Tensor:
        """The surviving ids along an axis of a parameter of this shape."""
        labels = torch.from_numpy(self.given[(name, axis)])
        view = [1] * len(shape)
        view[axis] = shape[axis]
        if labels.dim() == 1:
            return labels.view(view).expand(shape)
        view[0] = shape[0]
        return labels.repeat_interleave(shape[0] // labels.shape[0], 0).view(view).expand(shape)

    def has_axis(self, name: str, axis: int) -> bool:
        """Whether this axis of this parameter has labels."""
        return (name, axis) in self.given

    def blockwise(self, name: str, axis: int, groups: int) -> bool:
        """Whether this axis has labels of its own in each of several blocks of rows."""
        return (name, axis) in self.given and self.given[(name, axis)].ndim == 2

    def owner(self, labels: Tensor) -> None:
        """Consumers are known already."""
        return None

    def fresh(self, *shape: int) -> Tensor:
        """Channels made on the way are compared where they are met."""
        return torch.full(shape, FIXED)

    def unite(self, left: Tensor, right: Tensor) -> None:
        """Insist that elements that meet are of one channel.

        Raises:
            Conflict: they are not.
        """
        left, right = narrow_constant(left), narrow_constant(right)
        try:
            left, right = torch.broadcast_tensors(left, right)
        except RuntimeError as error:
            raise Conflict(SEPARATED, torch.cat([left.flatten(), right.flatten()])) from error
        wrong = (left != right) & (left != FIXED) & (right != FIXED)
        if wrong.any():
            raise Conflict(SEPARATED, torch.cat([left[wrong], right[wrong]]))

    def pin(self, labels: Tensor, reason: str) -> None:
        """Pins have been solved for."""

    def block(self, labels: Tensor, strict: bool = True) -> None:
        """So have blocks."""

    def heads(self, labels: list[Tensor]) -> bool:
        """Whether channels that are entire heads may go.

        Where one channel is left of every head, its labels look like those of heads that go as a
        whole.
        """
        return super().heads(labels) and all(a.shape[-1] != 1 for a in labels)
