"""The notebook of label propagation: which labels are united, pinned, blocked and consumed."""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from fxprune.rules.labels import FIXED, Value, distinct, narrow_constant, present, varying

LASTS = "does not vanish with its weights, and a product sums over it"


@dataclass(frozen=True)
class Consumer:
    """A contraction of an activation with an axis of a parameter.

    Attributes:
        node: the call that contracts.
        source: the node whose output it reads; of several the first.
        dim: the axis of the read tensor that is contracted.
        parameter: qualified name of the weight.
        axis: the weight's contracted axis.
        groups: convolution groups; the weight's axis then holds size / groups of the read channels.
        first: where the columns that are read begin along the axis, of which they are a part (one
            direction of a recurrent layer).
    """

    node: str
    source: str
    dim: int
    parameter: str
    axis: int
    groups: int = 1
    first: int = 0


@dataclass(frozen=True)
class Product:
    """A contraction of two tensors neither of which is a parameter; one of a tensor with itself
    stands for a sum over it.

    Attributes:
        left, right: the factors.
        labels: what is summed over.
        where: the call, for messages.
        reason: why channels stay that add something once their weights are zero.
    """

    left: Node
    right: Node
    labels: Tensor
    where: str
    reason: str


@dataclass(frozen=True)
class AxisLabels:
    """Labels of one parameter axis: `labels` has shape (size,), or (groups, size) for a grouped
    convolution's inputs.
    """

    parameter: str
    axis: int
    labels: Tensor


class Recorder:
    """Collects facts while rules run; the analysis solves them afterwards.

    Args:
        whole_heads: attention may lose entire heads, which ties the channels of each; otherwise
            labels of heads stay.
    """

    def __init__(self, whole_heads: bool = True) -> None:
        self.whole_heads = whole_heads
        self.met_heads = False
        self.next_label = FIXED + 1
        self.edges: list[Tensor] = []
        self.paired: list[int] = []
        self.pins: list[tuple[Tensor, str]] = []
        self.blocks: list[tuple[Tensor, bool]] = []
        self.consumers: list[Consumer] = []
        self.products: list[Product] = []
        self.axes: dict[tuple[str, int], AxisLabels] = {}
        self.node = ""
        self._starts: list[int] = []
        self._made: list[AxisLabels] = []

    def fresh(self, *shape: int) -> Tensor:
        """New labels, one per element."""
        count = int(torch.Size(shape).numel())
        labels = torch.arange(self.next_label, self.next_label + count).view(shape)
        self.next_label += count
        return labels

    def axis(self, name: str, shape: tuple[int, ...], axis: int, groups: int = 1) -> Tensor:
        """Label tensor of one axis of a parameter, of the parameter's shape.

        With `groups` > 1 (input axis of a grouped convolution) each block of rows of axis 0 has
        labels of its own.
        """
        size = shape[axis]
        key = (name, axis)
        if key not in self.axes:
            labels = self.fresh(groups, size) if groups > 1 else self.fresh(size)
            self.axes[key] = AxisLabels(name, axis, labels)
            self._starts.append(self.next_label - labels.numel())
            self._made.append(self.axes[key])
        labels = self.axes[key].labels
        view = [1] * len(shape)
        view[axis] = size
        if labels.dim() == 1:
            return labels.view(view).expand(shape)
        view[0] = shape[0]
        return labels.repeat_interleave(shape[0] // labels.shape[0], 0).view(view).expand(shape)

    def has_axis(self, name: str, axis: int) -> bool:
        """Whether this axis of this parameter has labels."""
        return (name, axis) in self.axes

    def blockwise(self, name: str, axis: int, groups: int) -> bool:
        """Whether this axis has labels of its own in each of `groups` blocks of rows, or none
        yet.
        """
        held = self.axes.get((name, axis))
        return held is None or held.labels.dim() == 2 and len(held.labels) == groups

    def owner(self, labels: Tensor) -> AxisLabels | None:
        """The parameter axis that all of these labels were made for."""
        low, high = int(labels.min()), int(labels.max())
        # Axes hold consecutive labels, in the order they were made.
        place = bisect_right(self._starts, low) - 1
        if place < 0:
            return None
        axis = self._made[place]
        return axis if high < self._starts[place] + axis.labels.numel() else None

    def unite(self, left: Tensor, right: Tensor) -> None:
        """Elements of the two (broadcastable) label tensors live or die together; a fixed one pins
        its partner.
        """
        left, right = torch.broadcast_tensors(narrow_constant(left), narrow_constant(right))
        for dim in range(left.dim()):
            if left.stride(dim) == 0 == right.stride(dim) and left.shape[dim] > 1:
                left, right = left.narrow(dim, 0, 1), right.narrow(dim, 0, 1)
        if torch.equal(left, right):
            return
        pairs = _pairs(left.reshape(-1), right.reshape(-1))
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        fixed = (pairs == FIXED).any(1)
        if fixed.any():
            self.pin(pairs[fixed], "meets a tensor that is not produced by a weight")
        if not fixed.all():
            self.edges.append(pairs[~fixed])

    def pair(self, left: Tensor, right: Tensor) -> None:
        """Unite what two factors of a product sum over, neither of which is a weight, and note
        that these are the product's two sides.
        """
        before = len(self.edges)
        self.unite(left, right)
        self.paired += range(before, len(self.edges))

    def tie(self, labels: Tensor, dims: frozenset[int]) -> Tensor:
        """Unite along dimensions, and return the label tensor made constant there."""
        for dim in sorted(dims & varying(labels)):
            first = labels.narrow(dim, 0, 1)
            self.unite(labels, first)
            labels = first.expand_as(labels)
        return labels

    def pin(self, labels: Tensor, reason: str) -> None:
        """Nothing may remove these labels; the reason reaches the report with the node's name."""
        pinned = distinct(labels)
        pinned = pinned[pinned != FIXED]
        if len(pinned):
            self.pins.append((torch.from_numpy(pinned), f"{reason} ({self.node})"))

    def multiply(self, left: Node, right: Node, labels: Tensor, reason: str = LASTS) -> None:
        """Note that two factors are contracted along these labels, which neither's own weight
        reads.
        """
        self.products.append(Product(left, right, labels, self.node, reason))

    def heads(self, labels: list[Tensor]) -> bool:
        """Whether channels that are entire heads may go; pins them where not."""
        self.met_heads = self.met_heads or bool(labels)
        if not self.whole_heads:
            for head in labels:
                self.pin(head, "a head as a whole, whose channels go one by one")
        return self.whole_heads and bool(labels)

    def pin_value(self, value: Value, reason: str) -> None:
        """Pin every label a tensor carries."""
        for labels in value.axes:
            self.pin(labels, reason)

    def block(self, labels: Tensor, strict: bool = True) -> None:
        """The rows of a (blocks, size) label matrix must keep equal counts; unless `strict`, rows
        of one channel may go.
        """
        if labels.shape[0] > 1:
            self.blocks.append((labels, strict))

    def block_structure(self, labels: Tensor) -> None:
        """Note the blocks of a squashed label tensor that changes along several dimensions (heads
        x head channels).
        """
        if len(varying(labels)) > 1:
            compact = narrow_constant(labels)
            sizes = [s for s in compact.shape if s > 1]
            self.block(compact.reshape(-1, sizes[-1]), strict=False)


def _pairs(left: Tensor, right: Tensor) -> Tensor:
    """(n, 2): which elements of two vectors stand beside each other, each pair once where there
    are many.
    """
    if len(left) <= 1024:
        return torch.stack([left, right], 1)
    # One number per pair: unique rows sort a hundred times slower.
    low = int(right.min())
    width = int(right.max()) - low + 1
    keys = present((left * width).add_(right).sub_(low).numpy())
    return torch.from_numpy(np.stack([keys // width, keys % width + low], 1))
