"""Hugging Face accelerate: one process or many, mixed precision, accumulation of gradients."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fxprune.errors import UnsupportedError
from fxprune.recovery.training import Training


@contextmanager
def accelerated(training: Training) -> Iterator[Any]:
    """An `accelerate.Accelerator`; accelerate's state is as before afterwards.

    Raises:
        UnsupportedError: accelerate is not installed, or an Accelerator of the caller's does not go
            with what is asked for.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, is_initialized
    except ImportError as error:
        raise UnsupportedError(
            f'recover trains with Hugging Face accelerate ({error}): pip install "fxprune[train]", '
            "or pip install accelerate."
        ) from error
    before = is_initialized()
    try:
        accelerator = Accelerator(
            mixed_precision=training.mixed_precision,
            gradient_accumulation_steps=training.accumulate,
        )
    except ValueError as error:
        raise UnsupportedError(
            f"mixed_precision={training.mixed_precision!r} cannot be had: {error}"
        ) from error
    try:
        yield accelerator
    finally:
        accelerator.free_memory()
        if not before:
            AcceleratorState._reset_state()


def agree(accelerator: Any, *numbers: float) -> tuple[float, ...]:
    """The first process's numbers, in every process."""
    if accelerator.num_processes == 1:
        return numbers
    from accelerate.utils import broadcast

    held = torch.tensor(numbers, dtype=torch.float64, device=accelerator.device)
    if held.device.type == "mps":
        held = held.float()
    return tuple(broadcast(held, from_process=0).tolist())


def share(accelerator: Any, value: Any) -> Any:
    """The first process's value, in every process."""
    if accelerator.num_processes == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value], from_process=0)[0]
