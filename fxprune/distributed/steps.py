"""Steps of several processes: the first rank keeps them in its folder, and tells the others."""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxprune.distributed.group import Group
from fxprune.resume.steps import Outcome, Steps, open_steps, outcome_of
from fxprune.resume.typed import encode, on_device


class SharedSteps(Steps):
    """Steps of which all ranks have the outcomes that the first one keeps.

    All ranks make the same calls. What goes wrong with the folder is raised by all; that a step
    cannot be kept, at the next one.

    Args:
        own: the first rank's; None on all others.
        group: of the ranks.
        device: of this rank's model, for tensors that are on the first one's.
    """

    def __init__(self, own: Steps | None, group: Group, device: torch.device | None):
        self._own, self._group, self._device = own, group, str(device or "cpu")
        self.folder, self.result = group.first(self._state, "checkpoint")

    def require(self, **what: str) -> None:
        self._group.first(lambda: self._keeper.require(**what), "checkpoint: the run")

    def expect(self, size: float) -> None:
        self._group.first(lambda: self._keeper.expect(size), "checkpoint: the disk")

    def find(self, name: str, key: Iterable[Any], kind: Any) -> Outcome | None:
        here: Outcome | None = None

        def look() -> tuple[Any, dict[str, Tensor]] | None:
            nonlocal here
            here = self._keeper.find(name, key, kind)
            tensors = dict[str, Tensor]()
            return None if here is None else (encode(here, tensors), tensors)

        told = self._group.first_tensors(look, f"checkpoint: {name}")
        if told is None or here is not None:
            return here
        return outcome_of(on_device(told[0], self._device), told[1], kind)

    def keep(self, name: str, key: Iterable[Any], outcome: Outcome) -> None:
        if self._own is not None:
            self._own.keep(name, key, outcome)

    def forget(self, name: str = "") -> None:
        if self._own is not None:
            self._own.forget(name)

    def finish(self, result: str) -> None:
        if self._own is not None:
            self._own.finish(result)

    @property
    def _keeper(self) -> Steps:
        """The first rank's, which it alone asks."""
        assert self._own is not None
        return self._own

    def _state(self) -> tuple[Path | None, str | None]:
        return self._keeper.folder, self._keeper.result


@contextmanager
def open_together(
    folder: str | os.PathLike[str], group: Group, device: torch.device | None
) -> Iterator[Steps]:
    """The steps of the first rank's folder, on all ranks; the others need not see it.

    Args:
        folder: that no other run has meanwhile.
        group: of the ranks.
        device: of this rank's model.

    Raises:
        StorageError: as `fxprune.resume.steps.open_steps`.
    """
    with ExitStack() as stack:
        own = stack.enter_context(open_steps(folder)) if group.is_first else None
        yield SharedSteps(own, group, device)
