"""When two outputs count as the same decision."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fxprune.errors import UnsupportedError

Decision = Callable[[Any, Any], Tensor]
"""Takes the original's and the compressed model's outputs on one batch; gives (N,) bool."""


def argmax(dim: int = 1, share: float = 0.99) -> Decision:
    """Same largest class; of several positions per example (pixels, tokens), in most of them.

    Args:
        dim: the class dimension.
        share: of the positions of one example that must agree.
    """

    def same(reference: Any, output: Any) -> Tensor:
        a, b = primary(reference), primary(output)
        equal = (a.argmax(dim) == b.argmax(dim)).reshape(len(a), -1)
        return equal.float().mean(1) >= (share if equal.shape[1] > 1 else 1.0)

    return same


def within(tolerance: float = 0.05) -> Decision:
    """Relative L2 error per example at most `tolerance`."""

    def same(reference: Any, output: Any) -> Tensor:
        a, b = (primary(v).reshape(len(primary(v)), -1).double() for v in (reference, output))
        close: Tensor = (a - b).norm(dim=1) <= tolerance * a.norm(dim=1)
        return close

    return same


def primary(output: Any) -> Tensor:
    """The tensor of an output that decides: `logits` where there is one, else the first floating.

    Raises:
        UnsupportedError: there is none.
    """
    logits = output.get("logits") if hasattr(output, "get") else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim():
            return leaf
    raise UnsupportedError(
        "The model returns no floating tensor to compare. Pass decision=callable(reference, "
        "output) -> (N,) bool."
    )


def default(output: Any) -> Decision:
    """The rule for a kind of output.

    Argmax for class scores (N, C), (N, C, H, W), and (N, T, C) tokens; relative error for
    regression, (N,) or (N, 1).
    """
    tensor = primary(output)
    if tensor.dim() == 1 or tensor.shape[1:].numel() == 1:
        return within()
    return argmax(dim=-1 if tensor.dim() == 3 else 1)


def resolve(decision: Decision | None, output: Any) -> Decision:
    """The caller's decision, or the default for this kind of output.

    Raises:
        UnsupportedError: the decision cannot be called.
    """
    if decision is None:
        return default(output)
    if not callable(decision):
        raise UnsupportedError(
            f"decision is a {type(decision).__name__}; pass a callable (reference, output) -> "
            "(N,) bool."
        )
    return decision


def squared_error(reference: Any, output: Any) -> tuple[float, float]:
    """Squared error and squared (centered) norm of the deciding tensors, summed."""
    a, b = primary(reference).detach().double(), primary(output).detach().double()
    center = a - a.mean(tuple(range(1, a.dim())), keepdim=True) if a[0].numel() > 1 else a
    return float((a - b).square().sum()), float(torch.square(center).sum())
