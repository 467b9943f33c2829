"""What the values of an output say about it: are they class scores, and along which axis.

Softmax and log-softmax rows are known by their sums. Of logits, the loss that they are trained with
leaves a trace: the gradient of the cross-entropy sums to zero over the classes, so the mean of a
row stays near where the initialization left it while the classes spread apart. Outputs that are
numbers of their own have row means as large as chance, or larger.
"""

import math

import torch
from torch import Tensor

ROWS = 4096
"""Most rows (positions) that are looked at."""
ENOUGH = 8
"""Fewer rows say nothing."""
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How far from 1 probabilities may sum, by dtype."""
LEVEL = 0.25
"""Most variance of the rows' means, relative to that of as many independent columns."""
SURE, VERY_SURE = 0.25, 0.6
"""Least mean of the largest softmax probability, from 0 (chance) to 1: with rows level as above,
and without.
"""
MANY, LARGEST = 10, 0.5
"""Classes, and the most frequent one's share, from which a very sure softmax is enough, the rows'
means being at most `LOOSE`."""
LOOSE = 2.0
VOCABULARY = 1000
"""Columns of the last of three axes that are taken for tokens' scores, where they are surer than
`TOKEN`."""
TOKEN = 0.1


def class_axes(scores: Tensor) -> list[int]:
    """The axes along which an output's values are class scores beyond doubt.

    Args:
        scores: (N, C), (N, C, L) or (N, T, C), or (N, C, ...).
    """
    axes = {0: (), 1: (), 2: (1,), 3: (1, 2)}.get(scores.dim(), (1,))
    return [axis for axis in axes if are_classes(scores, axis)]


def are_classes(scores: Tensor, axis: int) -> bool:
    """Whether values are class scores along an axis beyond doubt."""
    classes = scores.shape[axis]
    places = scores.detach().movedim(axis, -1).unsqueeze(1).flatten(1, -2)
    step = math.ceil(places.shape[1] / max(1, ROWS // max(1, len(places))))
    rows = places[:, :: max(1, step)].reshape(-1, classes).cpu().double()
    if classes < 2 or not len(rows) or not rows.isfinite().all():
        return False
    near = ROUNDING.get(scores.dtype, 1e-3)
    if bool(((rows >= 0) & (rows <= 1)).all()):
        return bool(((rows.sum(1) - 1).abs() < near).all())
    if bool((rows <= 0).all()) and bool((rows.logsumexp(1).abs() < near).all()):
        return True
    return len(rows) >= ENOUGH and _are_logits(rows, axis if scores.dim() == 3 else None)


def _are_logits(rows: Tensor, of_three: int | None) -> bool:
    """Whether rows (R, C) look like what a softmax was trained on.

    Args:
        rows: one per position.
        of_three: the axis they lie along, where it could be another.
    """
    classes = rows.shape[1]
    counts = rows.argmax(1).bincount(minlength=classes)
    if int((counts > 0).sum()) < 2:
        return False
    mean = rows.mean(1, keepdim=True)
    spread = float((rows - mean).square().sum())
    level = float(mean.square().sum()) * classes * (classes - 1) / max(spread, 1e-30)
    sure = (float(rows.softmax(1).amax(1).mean()) - 1 / classes) / (1 - 1 / classes)
    if of_three == 2 and classes >= VOCABULARY:
        return sure >= TOKEN
    if level < LEVEL or of_three:
        return level < LEVEL and sure >= SURE
    frequent = float(counts.max()) / len(rows)
    return level < LOOSE and classes >= MANY and sure >= VERY_SURE and frequent <= LARGEST
