"""A training as a script, for processes that train together or are killed: `worker.py OUT FOLDER
STEPS SLOWLY`.
"""

import sys
import time

import torch
from torch import Tensor

import fxprune
from tests.recovery.subjects import compressed, recovered


def main(out: str, folder: str, steps: int, slowly: float) -> None:
    """Recover with a checkpoint after every step, and save what comes back."""

    def slow(x: Tensor) -> Tensor:
        time.sleep(slowly)
        return x

    training = fxprune.Training(rate=3e-3, save_seconds=0.0, batch=32)
    small = recovered(
        compressed(),
        steps=steps,
        training=training,
        augment=["mix", slow],
        checkpoint=folder or None,
    )
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        fxprune.save(small, out)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
