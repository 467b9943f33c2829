"""How far the compressed model is from the original on a batch: outputs, and what leads to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxprune.errors import CalibrationError
from fxprune.recovery.features import Feature
from fxprune.verify.decisions import argmax
from fxprune.verify.judge import Judge
from fxprune.verify.outputs import TINY, floating

LEAST = 1e-8
"""The least probability whose logarithm is taken."""


@dataclass(frozen=True)
class Divergence:
    """The divergence of one output.

    Kullback-Leibler in nats, over all positions of an example, where the decision is the largest
    class; else squares of the differences relative to the variance of the original's values.

    Attributes:
        name: of the output.
        dim: of the classes; None for squares.
        probabilities: the classes' values are probabilities, not logits.
        variance: of the original's values.
    """

    name: str
    dim: int | None
    probabilities: bool
    variance: float

    def __call__(self, reference: Tensor, output: Tensor) -> Tensor:
        """(N,) of two tensors (N, ...)."""
        reference, output = reference.float(), output.float()
        if self.dim is None:
            known = reference.isfinite()
            difference = torch.where(known, output - reference.where(known, 0.0), 0.0)
            each = difference.square() / self.variance
        else:
            wanted, found = (self._log(v) for v in (reference, output))
            each = (wanted.exp() * (wanted - found)).sum(self.dim)
        return each.reshape(len(each), -1).mean(1)

    def _log(self, values: Tensor) -> Tensor:
        assert self.dim is not None
        if self.probabilities:
            return values.clamp(min=LEAST).log()
        return values.log_softmax(self.dim)

    def against(self, labels: Tensor, output: Tensor, smoothing: float) -> Tensor:
        """Cross entropy of (N, ...) class numbers, averaged over all but the first axis: (N,)."""
        assert self.dim is not None
        scores = self._log(output.float()).movedim(self.dim, 1)
        loss = F.cross_entropy(scores, labels, reduction="none", label_smoothing=smoothing)
        return loss.reshape(len(loss), -1).mean(1)


def divergences(judge: Judge, reference: Any) -> tuple[Divergence, ...]:
    """One for every output that is judged; where a caller's function judges, for all.

    Args:
        judge: what decides.
        reference: outputs of the original on a few examples.
    """
    tensors = floating(reference)
    rules = {judged.name: judged.rule for judged in judge.outputs if judged.counts}
    if "" in rules:
        rules = dict.fromkeys(tensors, rules[""])
    found = []
    for name, rule in rules.items():
        values = tensors[name].float()
        dim = rule.dim if isinstance(rule, argmax) else None
        probabilities = dim is not None and _are_probabilities(values, dim)
        found.append(Divergence(name, dim, probabilities, _variance(values, 0)))
    return tuple(found)


def feature_variances(features: Sequence[Feature], values: Sequence[Tensor]) -> tuple[float, ...]:
    """Mean variance per channel of each layer's outputs in the original.

    Args:
        features: the layers.
        values: their outputs in the original on a few examples.
    """
    pairs = zip(features, values, strict=True)
    return tuple(_variance(f.pick(f.thin(value)).float(), f.dim) for f, value in pairs)


def feature_error(
    features: Sequence[Feature],
    variances: Sequence[float],
    wanted: Sequence[Tensor],
    found: Sequence[Tensor],
) -> Tensor:
    """Squared error of the layers' outputs relative to their variance, mean over the layers."""
    errors = [
        (f.pick(f.thin(a)).float() - f.thin(b).float()).square().mean() / variance
        for f, variance, a, b in zip(features, variances, wanted, found, strict=True)
    ]
    return torch.stack(errors).mean()


def label_loss(
    divergence: Divergence,
    output: Tensor,
    labels: Tensor,
    partner: tuple[Tensor, Tensor] | None,
    smoothing: float,
) -> Tensor:
    """Cross entropy against labels, those of both examples where two were mixed.

    Args:
        divergence: of the output; over classes.
        output: (N, ...).
        labels: (N, ...) class numbers.
        partner: (N,) numbers of the examples that were mixed in, and (N,) their shares.
        smoothing: of the labels.

    Raises:
        CalibrationError: the labels are no class numbers of this output.
    """
    assert divergence.dim is not None
    sizes = list(output.shape)
    classes = sizes.pop(divergence.dim)
    if labels.is_floating_point() or list(labels.shape) != sizes:
        raise CalibrationError(
            f"labels=True: the loader gives labels {tuple(labels.shape)} {labels.dtype}, and the "
            f"output {divergence.name} needs class numbers {tuple(sizes)}. Give whole numbers, "
            "one for each example or position."
        )
    labels = labels.long()
    if bool(((labels < 0) & (labels != -100) | (labels >= classes)).any()):
        raise CalibrationError(
            f"labels=True: the loader gives labels from {int(labels.min())} to "
            f"{int(labels.max())}; the output {divergence.name} has classes 0 to {classes - 1}."
        )
    own = divergence.against(labels, output, smoothing)
    if partner is None:
        return own.mean()
    index, share = partner
    other = divergence.against(labels[index], output, smoothing)
    return ((1 - share) * own + share * other).mean()


def _are_probabilities(values: Tensor, dim: int) -> bool:
    inside = bool(((values >= 0) & (values <= 1)).all())
    return inside and bool(((values.sum(dim) - 1).abs() < 1e-2).all())


def _variance(values: Tensor, dim: int) -> float:
    """Of the finite values about the mean of each slice along an axis; about zero where there is
    none.
    """
    values = values.detach().where(values.isfinite(), 0.0).movedim(dim, 0).flatten(1)
    variance = float(values.var(1, unbiased=False).mean())
    return variance if variance > TINY else max(float(values.square().mean()), TINY)
