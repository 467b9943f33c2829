"""The result of a run that was kept, for a call that finds it finished."""

import hashlib
import logging
from pathlib import Path
from typing import Any

from torch import nn
from torch.fx import GraphModule

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
    is done.

    Args:
        journal: of the call, with the steps of the run.
        model, loader, options: as the call has them.

    Raises:
        StorageError: the run was of something else; names it.
    """
    steps = journal.steps
    if steps.folder is None or steps.result is None:
        return None
    path, device = steps.folder / RESULT, next(model.parameters()).device
    try:
        if _digest(path) != steps.result:
            raise StorageError("it is not what was written")
        small = load(path, device=device)
    except (OSError, StorageError) as error:
        LOG.warning("%s is damaged and is made anew: %s", path, error)
        return None
    calibration = read_examples(model, loader, options, journal)
    with journal.show("capture"):
        capture_for(model, calibration, options, steps)
    steps.forget()  # where the run was killed while it let go of them
    LOG.info("checkpoint %s is finished", steps.folder)
    return small


def keep_finished(steps: Steps, small: GraphModule) -> None:
    """Keep what is handed over in place of the steps that led to it.

    Where it cannot be written, a warning says so, and the steps stay.
    """
    if steps.folder is None:
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
