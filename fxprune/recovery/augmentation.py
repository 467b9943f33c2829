"""More inputs from the examples there are. No label is needed: the original answers for whatever
comes out, so that an input that is no example of any class teaches as well (Beyer et al. 2022).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.capture.batch import Batch, is_mask, to_batch
from fxprune.errors import CalibrationError, UnsupportedError

NAMES = ("flip", "crop", "mix")
Step = str | Callable[[Any], Any]
Augment = Step | Sequence[Step] | None
"""What `augment=` takes: `auto`, names of `NAMES`, a callable on batches, or a list of these."""
MIXED = 0.5
"""Share of the examples that are mixed with another one."""
SHIFT = 14
"""A crop is shifted by at most this part of the image's sides."""


@dataclass(frozen=True)
class Augmented:
    """A changed batch.

    Attributes:
        batch: what the models are called with.
        partner: (N,) numbers of the examples that were mixed in, and (N,) their shares; None where
            nothing was mixed.
    """

    batch: Batch
    partner: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Augmentation:
    """Changes that are made to every batch, in order.

    Attributes:
        model: whose forward the batches are for.
        steps: names and callables.
    """

    model: nn.Module
    steps: tuple[Step, ...]

    def __call__(self, batch: Batch) -> Augmented:
        """Change a batch; random numbers come from torch's generator.

        Raises:
            CalibrationError: a caller's function fails, or gives something else than a batch.
        """
        partner = None
        for step in self.steps:
            if callable(step):
                batch = self._called(step, batch)
            elif step == "mix":
                index, share = draw_partners(batch)
                batch, partner = mix(batch, index, share), (index, share)
            else:
                batch = batch.map(flip if step == "flip" else crop)
        return Augmented(batch, partner)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the steps."""
        return tuple(s if isinstance(s, str) else _name(s) for s in self.steps)

    def _called(self, function: Callable[[Any], Any], batch: Batch) -> Batch:
        name = _name(function)
        given: Any = batch.kwargs or (batch.args if len(batch.args) > 1 else batch.args[0])
        try:
            made = to_batch(self.model, function(given))
        except Exception as error:  # whatever a caller's function raises
            raise CalibrationError(
                f"augment={name} fails on a batch of {batch.size} examples: "
                f"{type(error).__name__}: {error}. It takes what the model is called with, a "
                "tensor, a tuple or a dict, and returns the same with changed values."
            ) from error
        if made.size != batch.size:
            raise CalibrationError(
                f"augment={name} made {made.size} examples of {batch.size}. Return as many."
            )
        return made


def _name(function: Callable[[Any], Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def read_augment(augment: Any, model: nn.Module, example: Batch) -> Augmentation:
    """What `augment=` says.

    `auto` flips, crops and mixes images, mixes other floating inputs, and leaves all else as it is.

    Args:
        augment: the caller's.
        model: whose forward the batches are for.
        example: of the inputs.

    Raises:
        UnsupportedError: it is none of what is taken, or does not suit the inputs.
    """
    alone = isinstance(augment, str) or callable(augment)
    steps = (augment,) if alone else () if augment is None else augment
    if not isinstance(steps, (list, tuple)):
        raise UnsupportedError(f"augment is a {type(augment).__name__}. {WANTED}")
    made: list[Step] = []
    for step in steps:
        if isinstance(step, str) and step == "auto":
            made += _automatic(example)
        elif callable(step) or isinstance(step, str) and step in NAMES:
            made.append(step)
        else:
            raise UnsupportedError(f"augment={step!r}. {WANTED}")
    images = all(t.dim() == 4 and t.is_floating_point() for t in example.tensors())
    for step in made:
        if step in ("flip", "crop") and not images:
            raise UnsupportedError(
                f"augment={step!r} is for models whose inputs are all images, floating (N, C, H, "
                "W). Pass a callable on batches instead."
            )
        if step == "mix" and not _mixable(example):
            raise UnsupportedError(
                'augment="mix" is for models whose inputs are all floating and no masks. Pass a '
                "callable on batches instead."
            )
    return Augmentation(model, tuple(made))


WANTED = f'Pass "auto", {", ".join(NAMES)}, a callable on batches, a list of these, or None.'


def _automatic(example: Batch) -> tuple[str, ...]:
    if not _mixable(example):
        return ()
    images = all(t.dim() == 4 for t in example.tensors())
    return NAMES if images else ("mix",)


def _mixable(example: Batch) -> bool:
    """Whether every tensor is floating, has a row per example and is no mask."""
    return all(
        t.is_floating_point() and t.dim() > 1 and len(t) == example.size and not is_mask(t)
        for t in example.tensors()
    )


def flip(images: Tensor) -> Tensor:
    """Half of the images (N, C, H, W), left to right."""
    chosen = torch.rand(len(images), 1, 1, 1) < 0.5
    return torch.where(chosen.to(images.device), images.flip(-1), images)


def crop(images: Tensor) -> Tensor:
    """Images (N, C, H, W), each shifted by a few pixels; what comes in repeats the border."""
    count, channels, height, width = images.shape
    down, right = height // SHIFT, width // SHIFT
    padded = F.pad(images, [right, right, down, down], mode="replicate")
    rows = torch.randint(0, 2 * down + 1, (count, 1)) + torch.arange(height)
    columns = torch.randint(0, 2 * right + 1, (count, 1)) + torch.arange(width)
    rows, columns = rows.to(images.device), columns.to(images.device)
    index = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[index, channel, rows[:, None, :, None], columns[:, None, None, :]]


def draw_partners(batch: Batch) -> tuple[Tensor, Tensor]:
    """(N,) numbers of other examples, and (N,) shares of them, zero for those that stay."""
    device = batch.tensors()[0].device
    index, share = torch.randperm(batch.size), torch.rand(batch.size)
    share *= torch.rand(batch.size) < MIXED
    return index.to(device), share.to(device)


def mix(batch: Batch, index: Tensor, share: Tensor) -> Batch:
    """Every example mixed with another one (Zhang et al. 2018, mixup).

    Args:
        batch: N examples.
        index: (N,) numbers of the others.
        share: (N,) of the others.
    """

    def mixed(values: Tensor) -> Tensor:
        weight = share.to(values.dtype).reshape(-1, *[1] * (values.dim() - 1))
        return torch.lerp(values, values[index], weight)

    return batch.map(mixed)
