"""The rule of an output whose caller named none: inferred where shape and values leave no doubt."""

from dataclasses import dataclass

from torch import Tensor

from fxprune.verify.decisions import Rule, argmax, close, multilabel, sign
from fxprune.verify.evidence import ENOUGH, class_axes


@dataclass(frozen=True)
class Inferred:
    """A rule, and what else the output may mean.

    Attributes:
        rule: what shape and values say, or `close` where there is doubt.
        doubts: the other rules that would suit; empty where there is no doubt.
    """

    rule: Rule
    doubts: tuple[Rule, ...] = ()

    @property
    def choices(self) -> str:
        """What the caller may answer, as text."""
        named = []
        for rule in self.doubts:
            several = sum(isinstance(other, argmax) for other in self.doubts) > 1
            axis = f"(dim={rule.dim})" if several and isinstance(rule, argmax) else ""
            named.append(f'"{rule.name}{axis}"')
        return ", ".join([*named, f'"{self.rule.name}"'])


def infer(reference: Tensor) -> Inferred:
    """The rule of an output.

    | shape | without doubt |
    |---|---|
    | (N, C), (N, C, H, W), (N, C, ...) | argmax along axis 1, where its values are class scores |
    | (N, T, C), (N, C, L) | argmax along the one axis whose values are class scores |
    | (N,), one channel | close, where all values lie on one side of 0, not in [0, 1] |
    | anything else | in doubt: close, and the caller is asked |

    Args:
        reference: (N, ...) of the original, a few examples; `fxprune.verify.evidence` says when
            values are class scores.
    """
    likely = class_axes(reference)
    if len(likely) == 1:
        return Inferred(argmax(likely[0]).settle(reference))
    axes = (1, 2) if reference.dim() == 3 else (1,) if reference.dim() > 1 else ()
    if 1 in (reference.shape[axis] for axis in axes) or not axes:
        if _is_quantity(reference):
            return Inferred(close())
        doubts: tuple[Rule, ...] = (sign(),)
    else:
        doubts = (*(argmax(axis) for axis in axes), multilabel())
    return Inferred(close(), tuple(rule.settle(reference) for rule in doubts))


def _is_quantity(values: Tensor) -> bool:
    """Whether all values lie on one side of 0, and not in [0, 1]: no sign decides then."""
    one_sided = bool((values > 0).all() or (values < 0).all())
    return len(values) >= ENOUGH and one_sided and bool((values.abs() > 1).any())
