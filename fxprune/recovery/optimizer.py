"""The optimizer of a training, and what its steps may cost.

A compressed network sits in a narrow valley: its fits left next to no error in some directions of
its weights and some in others, so that a step of one size for all of them first loses what the fits
had found. SOAP (Vyas et al. 2024) takes Adam's steps along the axes in which the gradients of a
layer vary independently (docs/recover.md).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.errors import UnsupportedError
from fxprune.recovery.training import Training

BETAS = 0.9, 0.99
"""Of SOAP: decay of the gradients' mean and of their squares, and of what the axes are from."""
EVERY = 10
"""Steps after which SOAP finds its axes anew (Vyas et al. 2024, sec. 6)."""
PER_CHANNEL = "per_channel"
"""Marks groups of parameters whose every number is of one channel: norms' scales and shifts,
biases, depthwise kernels.
"""
SLOWER = 0.03
"""Factor of the matrices' rate where steps are too large. Matrices are many numbers, of which few
examples say little each; what is of single channels goes on, and steps back one time later
(docs/decisions/0037).
"""
TINY = 1e-12
"""Added to the root of SOAP's squares: gradients are small where a fit left next to no error."""
SHARE = 0.6
"""Of a step's FLOPs, those that SOAP may add. Sides of weights that are too long for it are left
as they are.
"""
PER_NUMBER, PER_SIDE = 8.0, 0.6
"""FLOPs of SOAP per number of a weight and length of a side: four products with a square matrix;
and those per cubed length of a side, of a QR decomposition every `EVERY` steps.
"""


def load_soap() -> Callable[..., torch.optim.Optimizer]:
    """The optimizer's class.

    Raises:
        UnsupportedError: pytorch-optimizer is not installed.
    """
    try:
        from pytorch_optimizer import SOAP
    except ImportError as error:
        raise UnsupportedError(
            f'recover trains with SOAP of pytorch-optimizer ({error}): pip install "fxprune[train]"'
            ', or pip install pytorch-optimizer; or pass Training(optimizer="adam").'
        ) from error
    return SOAP


def settle(
    training: Training, shapes: Sequence[tuple[int, ...]], flops: float
) -> tuple[Training, int]:
    """Adam in place of SOAP where that could not turn half of the weights: those of dense layers on
    few examples, whose axes cost more than their steps.

    Args:
        training: as asked for.
        shapes: of the parameters that are trained.
        flops: of a step, of both models, forward and backward.

    Returns:
        (training, length up to which SOAP turns sides of weights)
    """
    if training.optimizer != "soap":
        return training, 0
    longest = longest_side(shapes, SHARE * flops)
    matrices = [shape for shape in shapes if len(shape) > 1]
    turned = [s for s in matrices if any(1 < side <= longest for side in s[:2])]
    if 2 * sum(map(math.prod, turned)) < sum(map(math.prod, matrices)):
        return replace(training, optimizer="adam"), 0
    return training, longest


def make_optimizer(
    parameters: Sequence[nn.Parameter], training: Training, flops: float
) -> tuple[Training, torch.optim.Optimizer]:
    """Weight decay is for matrices and kernels; what is of single channels is marked.

    Args:
        parameters: that are trained.
        training: as asked for.
        flops: of a step, of both models, forward and backward.

    Returns:
        (training, with the optimizer that it is; the optimizer)
    """
    training, longest = settle(training, [tuple(p.shape) for p in parameters], flops)
    kinds = (True, False), (True, True), (False, True)
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in parameters if (p.dim() > 1, _is_per_channel(p)) == kind],
            "weight_decay": training.weight_decay if kind[0] else 0.0,
            PER_CHANNEL: kind[1],
        }
        for kind in kinds
    ]
    groups = [group for group in groups if group["params"]]
    if training.optimizer == "sgd":
        nesterov = training.momentum > 0
        sgd = torch.optim.SGD(groups, training.peak, training.momentum, nesterov=nesterov)
        return training, sgd
    if training.optimizer == "adam":
        return training, torch.optim.AdamW(groups, training.peak)
    soap = load_soap()(
        groups,
        training.peak,
        betas=BETAS,
        precondition_frequency=EVERY,
        max_precondition_dim=longest,
        eps=TINY,
    )
    return training, soap


def _is_per_channel(parameter: Tensor) -> bool:
    return parameter.dim() <= 1 or parameter.shape[1] == 1


def set_rate(optimizer: Any, rate: float, factor: float) -> None:
    """Set the learning rate of a step.

    Args:
        optimizer: that `make_optimizer` made.
        rate: as scheduled.
        factor: of the rate of matrices, a power of `SLOWER`; what is of single channels is one
            behind.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * (min(1.0, factor / SLOWER) if group[PER_CHANNEL] else factor)


def longest_side(shapes: Sequence[tuple[int, ...]], flops: float) -> int:
    """Up to which length SOAP may turn the sides of weights; 0 where it may turn none.

    Args:
        shapes: of the parameters.
        flops: that it may add to a step.
    """
    sides = sorted((side, *shape) for shape in shapes if len(shape) > 1 for side in shape)
    longest, spent = 0, 0.0
    for side, *shape in sides:
        size = float(math.prod(shape))
        spent += PER_NUMBER * side * size + PER_SIDE * side**3
        if spent > flops:
            return min(longest, side - 1)
        longest = side
    return longest
