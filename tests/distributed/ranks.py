"""Real processes in a group of torch.distributed, each with one thread."""

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn

import fxprune

Work = Callable[[int, int], Any]
"""What a rank does; it is told its number and how many there are, and gives what can be pickled."""


def on_ranks(work: Work, size: int, folder: Path) -> list[Any]:
    """What every rank gives.

    Args:
        work: a function of a module, which the processes import.
        size: ranks.
        folder: for their results and their meeting.
    """
    folder.mkdir()
    spawn(_start, (size, work, str(folder)), nprocs=size)
    return [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(size)]


def _start(rank: int, size: int, work: Work, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size
    )
    found = work(rank, size)
    (Path(folder) / str(rank)).write_bytes(pickle.dumps(found))
    distributed.destroy_process_group()


def digest(small: nn.Module) -> str:
    """Of every byte of a compressed model's weights, its plan, and what was certified."""
    found = hashlib.sha256()
    for name, tensor in sorted(small.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().numpy().tobytes())
    found.update(fxprune.plan_of(small).to_json().encode())
    agreement = fxprune.report(small).agreement
    found.update(json.dumps(None if agreement is None else repr(agreement)).encode())
    return found.hexdigest()
