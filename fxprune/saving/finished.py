"""The result of a run that was kept, for a call that finds it finished."""

import hashlib
import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from fxprune.distributed.agreement import require_same
from fxprune.distributed.group import Group
from fxprune.distributed.together import current
from fxprune.errors import StorageError, warn_caller
from fxprune.intake import capture_for, read_examples
from fxprune.options import Options
from fxprune.progress import Journal
from fxprune.resume.steps import RESULT, Steps
from fxprune.saving.storage import load, save

LOG = logging.getLogger("fxprune")


def find_finished(
    journal: Journal, model: nn.Module, loader: Any, options: Options
) -> GraphModule | None:
    """What a finished run handed over; None where it is not finished, or its file is damaged.

    The loader is read once and the model captured, to know that neither changed, and nothing else
    is done. Of several ranks the first one reads the file, and tells the others.

    Args:
        journal: of the call, with the steps of the run.
        model, loader, options: as the call has them.

    Raises:
        StorageError: the run was of something else; names it.
        DistributedError: ranks differ in weights or options.
    """
    steps = journal.steps
    if steps.folder is None or steps.result is None:
        return None
    group, device = current(), next(model.parameters()).device
    require_same(group, model, options)
    path = steps.folder / RESULT
    small = _read(path, steps.result, device) if group.is_first else None
    if group.size > 1:
        small = _told(group, path, small, device)
    if small is None:
        return None
    calibration = read_examples(model, loader, options, journal, group)
    with journal.show("capture"):
        capture_for(model, calibration, options, steps)
    steps.forget()  # where the run was killed while it let go of them
    if group.is_first:
        LOG.info("checkpoint %s is finished", steps.folder)
    return small


def _read(path: Path, result: str, device: torch.device) -> GraphModule | None:
    """A result of this digest; None where it is damaged."""
    try:
        if _digest(path) != result:
            raise StorageError("it is not what was written")
        return load(path, device=device)
    except (OSError, StorageError) as error:
        LOG.warning("%s is damaged and is made anew: %s", path, error)
        return None


def _told(
    group: Group, path: Path, small: GraphModule | None, device: torch.device
) -> GraphModule | None:
    """What the first rank read, on every rank, which need not see its folder."""
    data = group.first(lambda: None if small is None else path.read_bytes(), "checkpoint: result")
    if data is None or small is not None:
        return small
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / RESULT
        copy.write_bytes(data)
        return load(copy, device=device)


def keep_finished(steps: Steps, small: GraphModule) -> None:
    """Keep what is handed over in place of the steps that led to it.

    Where it cannot be written, a warning says so, and the steps stay.
    """
    if steps.folder is None or not current().is_first:
        return
    path = steps.folder / RESULT
    try:
        save(small, path)
        steps.finish(_digest(path))
    except (OSError, StorageError) as error:
        warn_caller(
            f"checkpoint={str(steps.folder)!r} does not keep the compressed model: {error} A "
            "further call makes it again from what is kept."
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
