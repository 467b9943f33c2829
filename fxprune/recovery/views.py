"""The acceptance examples seen from several sides, where there are few: one decision of a hundred
is a whole point of agreement, and a lucky start would refuse weights that are in truth better.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from fxprune.capture.batch import Batch
from fxprune.recovery.augmentation import ON_IMAGES, Augmentation

ENOUGH = 400
"""Views of all examples that are judged in an evaluation, or all examples where there are more."""
MOST = 8
"""Views of one example; more of them say nearly the same."""


@dataclass(frozen=True)
class Views:
    """How examples are changed that are judged; the original answers for what comes out.

    Attributes:
        steps: names of those steps of the augmentation that leave every example an example of what
            it was: flips, shifts and zooms, but no blends, nor what a caller's function does.
        count: of every example, the one as it is among them.
        seed: every evaluation draws the same ones.
    """

    steps: tuple[str, ...]
    count: int
    seed: int

    def of(self, batch: Batch) -> Iterator[Batch]:
        """A batch as it is, and changed; under `drawn`."""
        yield batch
        for _ in range(self.count - 1):
            view = batch
            for step in self.steps:
                view = view.map(ON_IMAGES[step])
            yield view.channels_last()

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Random numbers from the seed; torch's generator goes on afterwards where it was. Those of
        other devices, from which no view is drawn, are left alone.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            yield


AS_THEY_ARE = Views((), 1, 0)


def views_for(augmentation: Augmentation, examples: int, seed: int) -> Views:
    """As many views as few examples need.

    Args:
        augmentation: of what is trained on.
        examples: that are judged.
        seed: of the draw.
    """
    steps = tuple(s for s in augmentation.steps if isinstance(s, str) and s in ON_IMAGES)
    count = min(MOST, -(-ENOUGH // max(examples, 1))) if steps else 1
    return Views(steps, count, seed)
