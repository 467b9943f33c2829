"""Rules: when two outputs count as the same decision. `fxprune.decisions` makes them public.

A rule takes the original's and the compressed model's tensor on one batch, (N, ...) each, and gives
(N,) bool. What is not a number never agrees.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxprune.errors import UnsupportedError, name_function
from fxprune.verify.evidence import class_axes

SLACK = 1e-12
"""Shares of equal positions are compared up to this rounding."""


class Rule(ABC):
    """When two tensors of one output are the same decision."""

    name: str

    @abstractmethod
    def __call__(self, reference: Tensor, output: Tensor) -> Tensor:
        """(N,) bool of two tensors (N, ...)."""

    @abstractmethod
    def __str__(self) -> str:
        """For the report's first line: what is compared, where, how exactly, and the name."""

    def settle(self, reference: Tensor) -> "Rule":
        """The same rule with all that it leaves open fixed for outputs like this one.

        Raises:
            UnsupportedError: it does not suit the output.
        """
        return self


@dataclass(frozen=True)
class argmax(Rule):
    """Same largest class; of several positions per example (pixels, tokens), in most of them.

    Attributes:
        dim: the class axis; 1 by default, and of outputs with three axes the one whose values are
            class scores.
        share: of the positions of one example that must agree.
    """

    dim: int | None = None
    share: float = 0.99

    name = "argmax"

    def __post_init__(self) -> None:
        if self.dim is not None and (isinstance(self.dim, bool) or not isinstance(self.dim, int)):
            raise UnsupportedError(f"argmax(dim={self.dim!r}): an axis is a whole number.")
        _check_number("argmax", "share", self.share, 1.0)

    def __call__(self, reference: Tensor, output: Tensor) -> Tensor:
        dim = 1 if self.dim is None else self.dim
        equal = reference.argmax(dim) == output.argmax(dim)
        equal &= ~(reference.isnan().any(dim) | output.isnan().any(dim))
        return _in_most(equal, self.share)

    def __str__(self) -> str:
        return f"largest class along axis {self.dim}{_positions(self.share)} (argmax)"

    def settle(self, reference: Tensor) -> Rule:
        axes = reference.dim()
        dim = self._axis(reference) if self.dim is None else self.dim
        if not -axes <= dim < axes or dim % axes == 0 or reference.shape[dim] < 2:
            raise UnsupportedError(
                f"argmax along axis {dim} of an output {_shape(reference)}: there must be two or "
                "more classes along it, and axis 0 counts the examples. "
                'Outputs without classes are judged by "sign" or "close".'
            )
        one = reference[0].numel() == reference.shape[dim]
        return replace(self, dim=dim % axes, share=1.0 if one else self.share)

    def _axis(self, reference: Tensor) -> int:
        if reference.dim() != 3 or 1 in reference.shape[1:]:
            wide = [axis for axis in range(1, reference.dim()) if reference.shape[axis] > 1]
            return wide[0] if reference.dim() == 3 and wide else 1
        likely = class_axes(reference)
        if len(likely) != 1:
            raise UnsupportedError(
                f"argmax of an output {_shape(reference)}: say which axis holds the classes, "
                'decision="argmax(dim=1)" or decision="argmax(dim=2)".'
            )
        return likely[0]


@dataclass(frozen=True)
class next_token(argmax):
    """Same most likely next token, at every position of a text: of a causal language model, whose
    agreement counts positions.

    Attributes:
        dim: the axis of the vocabulary; the last by default.
        share: of the positions of one example that must agree, where examples are counted, as
            beside other outputs that are judged.
        ids: keyword or place of the argument that holds the tokens, for the perplexity.
    """

    ids: str | int | None = None

    name = "next_token"

    def __str__(self) -> str:
        return "most likely next token at each position (next_token)"

    def settle(self, reference: Tensor) -> Rule:
        if reference.dim() != 3:
            raise UnsupportedError(
                f"next_token of an output {_shape(reference)}: it takes (N, length, vocabulary)."
            )
        return replace(self, dim=2)


@dataclass(frozen=True)
class _Sides(Rule):
    """Scores on the same side of a threshold.

    Attributes:
        threshold: 0, or 0.5 where all reference values lie in [0, 1], by default.
        share: of the scores of one example that must be on the same side.
    """

    threshold: float | None = None
    share: float = 1.0

    name = "sides"

    def __post_init__(self) -> None:
        if self.threshold is not None:
            _check_number(self.name, "threshold", self.threshold)
        _check_number(self.name, "share", self.share, 1.0)

    def __call__(self, reference: Tensor, output: Tensor) -> Tensor:
        threshold = self._threshold(reference)
        equal = (reference > threshold) == (output > threshold)
        return _in_most(equal & ~(reference.isnan() | output.isnan()), self.share)

    def settle(self, reference: Tensor) -> Rule:
        share = 1.0 if reference[0].numel() == 1 else self.share
        return replace(self, threshold=self._threshold(reference), share=share)

    def _threshold(self, reference: Tensor) -> float:
        if self.threshold is not None:
            return self.threshold
        return 0.5 if bool(((reference >= 0) & (reference <= 1)).all()) else 0.0


@dataclass(frozen=True)
class sign(_Sides):
    """A binary logit on the same side of 0; of several positions per example, in most of them."""

    share: float = 0.99

    name = "sign"

    def __str__(self) -> str:
        return f"same side of {self.threshold or 0:g}{_positions(self.share)} (sign)"


@dataclass(frozen=True)
class multilabel(_Sides):
    """Every label's score on the same side: of 0, or of 0.5 for probabilities."""

    name = "multilabel"

    def __str__(self) -> str:
        most = _positions(self.share)
        return f"every score on the same side of {self.threshold or 0:g}{most} (multilabel)"


@dataclass(frozen=True)
class close(Rule):
    """Relative L2 error per example at most `tolerance`."""

    tolerance: float = 0.05

    name = "close"

    def __post_init__(self) -> None:
        _check_number("close", "tolerance", self.tolerance, torch.inf)

    def __call__(self, reference: Tensor, output: Tensor) -> Tensor:
        a, b = (v.reshape(len(v), -1).double() for v in (reference, output))
        near: Tensor = (a - b).norm(dim=1) <= self.tolerance * a.norm(dim=1)
        return near & b.isfinite().all(1)

    def __str__(self) -> str:
        return f"relative error at most {100 * self.tolerance:g} % per example (close)"


@dataclass(frozen=True)
class Custom(Rule):
    """The caller's own function."""

    function: Callable[[Any, Any], Any]

    name = "custom"

    def __call__(self, reference: Any, output: Any) -> Any:
        try:
            return self.function(reference, output)
        except Exception as error:
            raise UnsupportedError(
                f"decision={name_function(self.function)}: it raised {type(error).__name__}: "
                f"{error}. It is called with the original's and the compressed model's outputs on "
                "one batch, and gives (N,) bool."
            ) from error

    def settle(self, reference: Tensor) -> Rule:
        self.try_on(reference, len(reference))
        return self

    def try_on(self, output: Any, size: int) -> None:
        """Check what the function gives where both outputs are the original's.

        Raises:
            UnsupportedError: not (size,) bool, or the original agrees nowhere with itself.
        """
        if not check_result(self(output, output), size, self).any():
            raise UnsupportedError(
                f"decision: by {self} the original does not agree with itself on any of {size} "
                "examples. Give True where two outputs are the same decision."
            )

    def __str__(self) -> str:
        return f"the caller's own ({name_function(self.function)})"


def check_result(same: Any, size: int, rule: Rule) -> Tensor:
    """What a rule gave on a batch, as (N,) bool.

    Raises:
        UnsupportedError: it is of another kind, shape or dtype, or holds other numbers than 0 and
            1.
    """
    wanted = f"It must give one bool per example, shape ({size},)."
    if isinstance(same, np.ndarray) and same.dtype.kind in "biuf":
        same = torch.from_numpy(same)
    if not isinstance(same, Tensor):
        raise UnsupportedError(f"decision: {rule} gave a {type(same).__name__}. {wanted}")
    if tuple(same.shape) != (size,):
        raise UnsupportedError(
            f"decision: {rule} gave shape {tuple(same.shape)} for {size} examples. {wanted}"
        )
    if same.is_complex() or not bool(((same == 0) | (same == 1)).all()):
        raise UnsupportedError(
            f"decision: {rule} gave {same.dtype} with other values than 0 and 1. {wanted}"
        )
    return same.detach().bool().cpu()


def _in_most(equal: Tensor, share: float) -> Tensor:
    """(N,) bool of (N, ...): whether a share of the positions is equal; all, where there is one."""
    flat = equal.reshape(len(equal), -1)
    return flat.double().mean(1) >= (share if flat.shape[1] > 1 else 1.0) - SLACK


def _positions(share: float) -> str:
    return f" on at least {100 * share:g} % of the positions" if share < 1 else ""


def _shape(tensor: Tensor) -> str:
    return str(("N", *tensor.shape[1:])).replace("'", "")


def _check_number(rule: str, name: str, value: object, most: float | None = None) -> None:
    """A finite number; where `most` is given, at least 0 and at most that."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and abs(value) < torch.inf and (most is None or 0 <= value <= most):  # type: ignore[arg-type, operator]
        return
    limits = "" if most is None else " of 0 or more" if most > 1 else " from 0 to 1"
    raise UnsupportedError(f"{rule}({name}={value!r}): it is a finite number{limits}.")
