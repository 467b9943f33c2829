"""More inputs from the examples there are. No label is needed: the original answers for whatever
comes out, so that an input that is no example of any class teaches as well (Beyer et al. 2022).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.capture.batch import Batch, is_mask, to_batch
from fxprune.errors import CalibrationError, UnsupportedError, name_function

NAMES = ("flip", "crop", "zoom", "mix")
Step = str | Callable[[Any], Any]
Augment = Step | Sequence[Step] | None
"""What `augment=` takes: `auto`, names of `NAMES`, a callable on batches, or a list of these."""
BLENDED, MIXED, PASTED = 0.5, 0.8, 0.5
"""Shares of the examples that are mixed with another one, of images, and of mixed images that get
a part of it pasted in (docs/recover.md).
"""
SHIFT = 14
"""A crop is shifted by at most this part of the image's sides."""
AREA, ASPECT = 0.35, 4 / 3
"""The least share of an image that a zoom shows, and how much wider or higher than the image the
part may be (Szegedy et al. 2015, sec. 6).
"""


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
                drawn = draw_partners(batch)
                batch, partner = mix(batch, drawn), (drawn.index, drawn.share)
            else:
                batch = batch.map(ON_IMAGES[step])
        return Augmented(batch, partner)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the steps."""
        return tuple(s if isinstance(s, str) else name_function(s) for s in self.steps)

    def _called(self, function: Callable[[Any], Any], batch: Batch) -> Batch:
        name = name_function(function)
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
        if isinstance(step, str) and step in ON_IMAGES and not images:
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
    return ("flip", "crop", "mix") if images else ("mix",)


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


def zoom(images: Tensor) -> Tensor:
    """A part of each of the images (N, C, H, W), scaled to the whole image's size."""
    count = len(images)
    area = torch.empty(count).uniform_(AREA, 1)
    aspect = torch.empty(count).uniform_(-math.log(ASPECT), math.log(ASPECT)).exp()
    sides = torch.stack([area * aspect, area / aspect], 1).sqrt().clamp(max=1)
    centers = (2 * torch.rand(count, 2) - 1) * (1 - sides)
    # Half precision cannot be sampled on every device.
    exact = images if images.dtype == torch.float64 else images.float()
    wanted = torch.cat([torch.diag_embed(sides), centers[:, :, None]], 2).to(exact)
    grid = F.affine_grid(wanted, list(images.shape), align_corners=False)
    parts = F.grid_sample(exact, grid, padding_mode="border", align_corners=False)
    return parts.to(images.dtype)


ON_IMAGES: dict[str, Callable[[Tensor], Tensor]] = {"flip": flip, "crop": crop, "zoom": zoom}
"""The steps that need images."""


@dataclass(frozen=True)
class Partners:
    """What every example is mixed with.

    Attributes:
        index: (N,) numbers of the other examples.
        share: (N,) of the other, zero for those that stay as they are.
        box: (N, 4) of images, top, left, height and width of the part that comes from the other;
            None where all of every example is blended.
        pasted: (N,) bool, which examples are made so; the others are blended.
    """

    index: Tensor
    share: Tensor
    box: Tensor | None
    pasted: Tensor


def draw_partners(batch: Batch) -> Partners:
    """Draw what a batch is mixed with; half of the mixed images are pasted, all else is blended."""
    count = batch.size
    index, share = torch.randperm(count), torch.rand(count)
    sizes = {t.shape[2:] for t in batch.tensors()}
    images = len(sizes) == 1 and all(t.dim() == 4 for t in batch.tensors())
    share *= torch.rand(count) < (MIXED if images else BLENDED)
    if not images:
        return Partners(index, share, None, torch.zeros(count, dtype=torch.bool))
    size = torch.tensor(sizes.pop())
    sides = (size * share.sqrt()[:, None]).round().long()
    corner = (torch.rand(count, 2) * (size - sides + 1)).long()
    pasted = torch.rand(count) < PASTED
    share = torch.where(pasted, sides.prod(1) / size.prod(), share)
    return Partners(index, share, torch.cat([corner, sides], 1), pasted)


def mix(batch: Batch, partners: Partners) -> Batch:
    """Every example blended with another one (Zhang et al. 2018, mixup), or, of images, with a part
    of another one pasted in (Yun et al. 2019, CutMix).
    """
    found = partners

    def mixed(values: Tensor) -> Tensor:
        def along(row: Tensor) -> Tensor:
            return row.to(values.device).reshape(-1, *[1] * (values.dim() - 1))

        others = values[found.index.to(values.device)]
        blended = torch.lerp(values, others, along(found.share).to(values.dtype))
        if found.box is None:
            return blended
        top, left, height, width = (along(edge) for edge in found.box.T)
        rows = torch.arange(values.shape[2], device=values.device)[:, None]
        columns = torch.arange(values.shape[3], device=values.device)
        inside = (rows >= top) & (rows < top + height)
        inside = inside & (columns >= left) & (columns < left + width)
        return torch.where(along(found.pasted), torch.where(inside, others, values), blended)

    return batch.map(mixed)
