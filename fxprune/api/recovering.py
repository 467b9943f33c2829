"""`fxprune.recover`: training without labels, after `compress`."""

import os
from typing import Any

from torch import nn
from torch.fx import GraphModule

from fxprune.calibrate.groups import Groups, check_groups
from fxprune.errors import UnsupportedError
from fxprune.options import DEFAULTS, Options
from fxprune.recovery.augmentation import Augment
from fxprune.recovery.recovering import Wish, recover_whole
from fxprune.recovery.training import Length, Training
from fxprune.resume.folder import make_folder
from fxprune.verify.judge import Decision, check_decision


def recover(
    small: nn.Module,
    model: nn.Module,
    calib_loader: Any,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    training: Training | None = None,
    augment: Augment = "auto",
    labels: bool = False,
    decision: Decision = DEFAULTS.decision,
    groups: Groups | None = DEFAULTS.groups,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = DEFAULTS.progress,
    seed: int = DEFAULTS.seed,
    memory: float = DEFAULTS.memory,
) -> GraphModule:
    """Train a compressed model, without labels, to what the original gives.

    The loss is the divergence of the outputs and the error of what the last layers before them
    give. It needs Hugging Face accelerate (`pip install "fxprune[train]"`); under `accelerate
    launch` or `torchrun` all processes train together. What comes back agrees at least as often as
    `small` on examples that are not trained on. See docs/recover.md.

    Args:
        small: what `compress`, `apply`, `factorize` or `load` returned; not changed.
        model: the original that it was made from; not changed.
        calib_loader: the examples that `compress` was given, in any order, and more. Those that it
            held out are known again: half of them choose the weights, half certify the result.
            All others are trained on.
        minutes, steps, epochs: how long to train; one of the three.
        training: rates, optimizer, schedule, batches and the like.
        augment: `auto` (images are flipped, shifted and mixed, other floating inputs mixed),
            "flip", "crop" (shifts), "zoom", "mix", a callable on batches (it takes and returns what
            the model is called with: a tensor, tuple or dict), a list of these, or None.
        labels: mix in cross entropy against labels, which the loader then yields: tuples (x, y),
            or dicts with a key such as `labels`.
        decision, groups: as `compress` was given.
        checkpoint: folder in which a training that is killed goes on when it is called again.
        progress: show a bar, as `compress`.
        seed: of the orders, augmentations, and which held-out examples certify.
        memory: bytes of examples held before they spill to disk.

    Returns:
        as `compress`: of the same sizes and plan, in eval mode. Its report's agreement and bound
        are of the certifying half, and `report(...).recovery` says what training gave. Where no
        weights were accepted, they are those of `small`.

    Raises:
        BudgetError, CalibrationError, CaptureError, PlanError, StorageError, UnsupportedError: each
            says what, why and what to do.
    """
    check_decision(decision)
    check_groups(groups)
    common = Options(progress=progress, seed=seed, memory=memory)
    length = Length(minutes=minutes, steps=steps, epochs=epochs)
    if training is not None and not isinstance(training, Training):
        raise UnsupportedError(
            f"training is a {type(training).__name__}: give a fxprune.Training, such as "
            "fxprune.Training(rate=1e-4)."
        )
    if not isinstance(labels, bool):
        raise UnsupportedError(f"labels={labels!r}: labels are used, True, or not, False.")
    wish = Wish(
        training=Training() if training is None else training,
        length=length,
        labels=labels,
        augment=augment,
        decision=decision,
        groups=groups,
        checkpoint=None if checkpoint is None else make_folder(checkpoint),
        progress=progress,
        seed=common.seed,
        memory=common.memory,
    )
    return recover_whole(small, model, calib_loader, wish)
