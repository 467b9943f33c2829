"""The original and the compressed model side by side, as they are trained and judged."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxprune.calibrate.observe import arguments
from fxprune.capture.batch import Batch
from fxprune.errors import CalibrationError, UnsupportedError
from fxprune.plans.plan import Plan
from fxprune.recovery.features import Feature, match_features, tap
from fxprune.recovery.frozen import NORMS
from fxprune.recovery.losses import (
    Divergence,
    divergences,
    feature_error,
    feature_variances,
    label_loss,
)
from fxprune.recovery.training import Training
from fxprune.verify.judge import Judge
from fxprune.verify.outputs import floating


@dataclass(frozen=True)
class Pair:
    """Both models.

    Attributes:
        original: captured graph; gives batches their flat arguments and outputs their form.
        small: the compressed model's copy that is trained.
        teacher: the original with the features beside its outputs; has no gradients.
        student: `small` likewise; the module that accelerate wraps.
        plain: `small` as it is judged, in full precision and without features.
        features: that are compared.
        variances: of the features in the original.
        outputs: the divergence of every output that is judged.
        device: where all of it runs.
    """

    original: GraphModule
    small: GraphModule
    teacher: GraphModule
    student: GraphModule
    plain: GraphModule
    features: tuple[Feature, ...]
    variances: tuple[float, ...]
    outputs: tuple[Divergence, ...]
    device: torch.device

    def teach(self, batch: Batch) -> tuple[list[Tensor], Any]:
        """The original's features and outputs on a batch that is on the device."""
        with torch.no_grad():
            values, flat = self.teacher(*arguments(self.original, batch))
        return values, self.original.graph.process_outputs(flat)

    def judged(self, batch: Batch) -> Any:
        """The compressed model's outputs on a batch that is on the device."""
        _, flat = self.plain(*arguments(self.small, batch))
        return self.small.graph.process_outputs(flat)

    def loss(
        self,
        student: nn.Module,
        batch: Batch,
        training: Training,
        labels: Tensor | None = None,
        partner: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """What a step makes smaller, a scalar.

        Args:
            student: as accelerate wrapped it.
            batch: on the device.
            training: weights of the parts.
            labels: (N, ...) class numbers, where there are some.
            partner: which examples were mixed in, and their shares.
        """
        wanted, reference = self.teach(batch)
        found, flat = student(*arguments(self.small, batch))
        output = self.small.graph.process_outputs(flat)
        total = self.divergence(reference, output).mean()
        if labels is not None:
            (own,) = (d for d in self.outputs if d.dim is not None)
            hard = label_loss(
                own, floating(output)[own.name], labels, partner, training.label_smoothing
            )
            total = torch.lerp(total, hard, training.label_share)
        if self.features:
            inner = feature_error(self.features, self.variances, wanted, found)
            total = total + training.features * inner
        return total

    def divergence(self, reference: Any, output: Any) -> Tensor:
        """(N,) of a batch, the sum over the outputs that are judged."""
        pairs = floating(reference), floating(output)
        return torch.stack([d(pairs[0][d.name], pairs[1][d.name]) for d in self.outputs]).sum(0)

    def batches(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """Batches on the device, laid out as convolutions read them fastest."""
        for batch in batches:
            yield batch.map(lambda t: t.to(self.device)).channels_last()

    def set_mode(self, training: bool, frozen: bool) -> None:
        """Dropout never acts; normalizations follow the batch only where that is asked for."""
        for module in self.student.modules():
            module.training = training and not frozen and isinstance(module, NORMS)

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that the loss depends on."""
        return [p for p in self.student.parameters() if p.requires_grad]

    def weights(self) -> dict[str, Tensor]:
        """All tensors by name, of the student that is trained; not copies."""
        return dict(self.small.state_dict())


def make_pair(
    original: GraphModule,
    small: GraphModule,
    plan: Plan,
    judge: Judge,
    training: Training,
    batch: Batch,
    device: torch.device,
) -> Pair:
    """Set both models up, and try a step's derivative.

    Args:
        original: captured.
        small: what `compress` returned; copied.
        plan: of it.
        judge: what decides.
        training: how it will be trained.
        batch: some examples that are trained on.
        device: where to run.

    Raises:
        UnsupportedError: the loss has no derivative, or weights are of less than single precision.
    """
    small = copy.deepcopy(small).eval().to(device)
    for name, parameter in small.named_parameters():
        if parameter.is_floating_point() and parameter.dtype.itemsize < 4:
            raise UnsupportedError(
                f"{name} is {str(parameter.dtype).removeprefix('torch.')}: steps of training are "
                "lost in its rounding. Recover both models in float32 (.float()) and cast the "
                "result; training in mixed precision is Training(mixed_precision=...)."
            )
        parameter.requires_grad_(parameter.is_floating_point())
    features = match_features(original, small, plan) if training.features else ()
    pair = Pair(
        original=original,
        small=small,
        teacher=tap(original, [f.original for f in features], device, frozen=True),
        student=tap(small, [f.small for f in features], device, training.freeze_statistics),
        plain=tap(small, [], device),
        features=features,
        variances=(),
        outputs=(),
        device=device,
    )
    (batch,) = pair.batches([batch])
    values, reference = pair.teach(batch)
    pair = Pair(
        **{
            **vars(pair),
            "variances": feature_variances(features, values),
            "outputs": divergences(judge, reference),
        }
    )
    _try_derivative(pair, batch, training)
    return pair


def require_form(small: GraphModule, batch: Batch) -> None:
    """Check that a compressed model takes batches in the form in which the loader gives them.

    Raises:
        CalibrationError: it was compressed with other arguments, or other keywords.
    """
    wanted = sum(node.op == "placeholder" for node in small.graph.nodes)
    try:
        found = len(arguments(small, batch))
    except Exception:  # whatever unlike nests raise
        found = -1
    if found != wanted:
        raise CalibrationError(
            "The compressed model does not take its inputs in the form in which this loader gives "
            f"them ({len(batch.args)} positional, keywords {sorted(batch.kwargs)}). Give batches "
            "as compress was given them."
        )


def _try_derivative(pair: Pair, batch: Batch, training: Training) -> None:
    """Leave gradients to the parameters that the loss depends on.

    Raises:
        UnsupportedError: there is none, or no derivative.
    """
    try:
        pair.loss(pair.student, batch, training).backward()
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise UnsupportedError(
            f"The compressed model cannot be trained: it has no derivative ({reason})."
        ) from error
    for parameter in pair.student.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    if not pair.trained:
        raise UnsupportedError(
            "The compressed model cannot be trained: its outputs depend on no floating parameter."
        )
