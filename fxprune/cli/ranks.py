"""Commands that several processes run as one: torchrun starts them, the first one speaks."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any

import torch
import typer
from torch import distributed

from fxprune.cli.output import say_error
from fxprune.distributed.together import together
from fxprune.errors import FxpruneError


def on_all_ranks(command: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """A command that all ranks run together, where torchrun started several; what it ends with is
    said by the first one, and so is what any of them raises.
    """

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> list[str]:
        with joined() as several:
            try:
                with together() as group:
                    last = command(*args, **kwargs)
            except FxpruneError as error:
                if not several:
                    raise
                if distributed.get_rank() == 0:
                    say_error(error)
                # torchrun stops all ranks as soon as one has gone: not before it is said.
                with suppress(RuntimeError):
                    distributed.barrier()
                raise typer.Exit(1) from error
            return last if group.is_first else []

    return run


@contextmanager
def joined() -> Iterator[bool]:
    """In the process group that torchrun's environment names, if there is one with several; whether
    there is.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ
    if not several or not distributed.is_available() or distributed.is_initialized():
        yield several and distributed.is_available()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("gloo")
    try:
        yield True
    finally:
        distributed.destroy_process_group()
