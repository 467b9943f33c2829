"""Ranks that are forked: they start at once, with what the test has imported."""

import os
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.killing.processes import Ended, Process, Tell, listen
from benchmarks.killing.runs import join
from fxprune.errors import FxpruneError


def on_forks(work: Callable[[int], str], size: int, folder: Path) -> list[Ended]:
    """How every rank ends: with what its work gives as the digest, or an error.

    Args:
        work: is told the number of the rank.
        size: ranks.
        folder: for their meeting; made.
    """
    folder.mkdir()
    processes = [Process(partial(_start, work, rank, size, str(folder))) for rank in range(size)]
    assert listen(processes, 300)
    return [process.end() for process in processes]


def _start(work: Callable[[int], str], rank: int, size: int, folder: str, tell: Tell) -> None:
    torch.set_num_threads(1)
    code = 1
    try:
        if size > 1:
            join(folder, rank, size)
        tell(digest=work(rank))
        code = 0
    except FxpruneError as error:
        tell(error=str(error))
        code = 3
    except BaseException:
        tell(crash=traceback.format_exc())
    finally:
        os._exit(code)
