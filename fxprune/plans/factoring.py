"""A layer as two smaller ones: how its weight folds into matrices, and how their factors become
two weights.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from fxprune.errors import PlanError


@dataclass(frozen=True)
class Factoring:
    """A linear layer or convolution replaced by two without anything in between.

    The weight, (out, in / groups, k1, k2, ...), is seen as groups x encoders matrices of (out /
    groups [x k1]) rows and (in / groups / encoders x the other kernel axes) columns, each the
    product of two factors.

    Attributes:
        rank: of every matrix; between the layers lie groups x encoders x rank channels.
        groups: convolution groups of the layer.
        encoders: parts of a group's input channels that the first layer reads separately
            (Liebenwein et al. 2021, ALDS).
        separable: the second layer has the first kernel axis (k1 x 1 after 1 x k2); otherwise its
            kernel is 1.
    """

    rank: int
    groups: int = 1
    encoders: int = 1
    separable: bool = False

    def __post_init__(self) -> None:
        for name in ("rank", "groups", "encoders"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise PlanError(
                    f"A factoring's {name} is a whole number of at least 1, not {value!r}."
                )
        if type(self.separable) is not bool:
            raise PlanError(f"A factoring is separable or not: {self.separable!r} is neither.")

    def _sizes(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Outputs per group, inputs per encoder, kernel elements of the second and of the first
        layer.
        """
        kernel = shape[2:]
        second = kernel[0] if self.separable and kernel else 1
        return (
            shape[0] // self.groups,
            shape[1] // self.encoders,
            second,
            math.prod(kernel) // second,
        )

    def largest(self, shape: tuple[int, ...]) -> int:
        """The rank at which nothing is lost."""
        outputs, inputs, second, first = self._sizes(shape)
        return min(outputs * second, inputs * first)

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Elements of the first and of the second weight."""
        outputs, inputs, second, first = self._sizes(shape)
        hidden = self.groups * self.encoders * self.rank
        return hidden * inputs * first, outputs * second * hidden

    def fold(self, weight: Tensor) -> Tensor:
        """The matrices, (groups, encoders, rows, columns) float64."""
        outputs, inputs, second, first = self._sizes(tuple(weight.shape))
        split = weight.detach().double()
        split = split.reshape(self.groups, outputs, self.encoders, inputs, second, first)
        return split.permute(0, 2, 1, 4, 3, 5).reshape(
            self.groups, self.encoders, outputs * second, inputs * first
        )

    def weights(self, left: Tensor, right: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The first and the second layer's weight.

        Args:
            left: (groups, encoders, rows, rank).
            right: (groups, encoders, rank, columns).
            shape: of the layer's weight.
        """
        outputs, inputs, second, _ = self._sizes(shape)
        columns = left.reshape(self.groups, self.encoders, outputs, second, self.rank)
        columns = columns.permute(0, 2, 1, 4, 3)
        ones = (1,) * max(len(shape) - 3, 0)
        kernels = ((1, *shape[3:]), (second, *ones)) if self.separable else (shape[2:], (1, *ones))
        if len(shape) == 2:
            kernels = (), ()
        hidden = self.encoders * self.rank
        behind = columns.reshape(shape[0], hidden, *kernels[1])
        ahead = right.reshape(self.groups * hidden, inputs, *kernels[0])
        return ahead.contiguous(), behind.contiguous()

    def merge(self, first: Tensor, second: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The one weight of this shape that two layers amount to, float64 arithmetic, in the
        first's dtype.

        Raises:
            PlanError: the weights are not of this factoring.
        """
        hidden = self.encoders * self.rank
        expected = (self.groups * hidden, shape[1] // self.encoders), (shape[0], hidden)
        found = tuple(first.shape[:2]), tuple(second.shape[:2])
        if found != expected or (first.numel(), second.numel()) != self.sizes(shape):
            raise PlanError(
                f"Weights of shapes {tuple(first.shape)} and {tuple(second.shape)} are not the "
                f"factors of a {tuple(shape)} weight at {self}."
            )
        outputs, inputs, kernel, rest = self._sizes(shape)
        columns = second.detach().double()
        columns = columns.reshape(self.groups, outputs, self.encoders, self.rank, kernel)
        left = columns.permute(0, 2, 1, 4, 3).reshape(
            self.groups, self.encoders, outputs * kernel, self.rank
        )
        right = first.detach().double()
        right = right.reshape(self.groups, self.encoders, self.rank, inputs * rest)
        product = (left @ right).reshape(self.groups, self.encoders, outputs, kernel, inputs, rest)
        merged: Tensor = product.permute(0, 2, 1, 4, 3, 5).reshape(shape).to(first.dtype)
        return merged


def names(weight: str) -> tuple[str, str]:
    """Names of the two weights that replace a layer's: `conv2.weight` becomes `conv2.0.weight` and
    `conv2.1.weight`. A weight of another name becomes a module: `conv2_w.0.weight` and
    `conv2_w.1.weight`.
    """
    prefix = _prefix(weight)
    return f"{prefix}0.weight", f"{prefix}1.weight"


def bias_names(weight: str) -> tuple[str, str] | None:
    """Names of a layer's bias, before and after: `conv2.bias` becomes `conv2.1.bias`. The bias
    beside a weight of another name stays where it is: None.
    """
    if not is_layers(weight):
        return None
    prefix = _prefix(weight)
    return f"{prefix}bias", f"{prefix}1.bias"


def is_layers(weight: str) -> bool:
    """Whether a weight is called as PyTorch's layers call theirs."""
    return weight.rpartition(".")[2] == "weight"


def _prefix(weight: str) -> str:
    return weight.removesuffix("weight") if is_layers(weight) else f"{weight}."
