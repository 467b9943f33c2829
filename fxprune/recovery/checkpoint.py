"""A training that was cut short goes on where its last checkpoint was written.

A checkpoint is a folder of its own beside the last one, which is removed only after `latest.json`
names the new one: a process that is killed at any moment leaves a whole one.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fxprune.errors import StorageError
from fxprune.recovery.acceptance import Best, Measured

LATEST = "latest.json"
STATE = "recovery.safetensors"
"""The best weights and the moving average; what else a step needs is accelerate's."""
NUMBERS = "step", "batches", "seconds", "evaluated", "rate", "began", "tried", "stopped"
"""Of a state, what `latest.json` holds as it is."""


@dataclass
class State:
    """Where a training stands.

    Attributes:
        best: the weights to hand back.
        step: steps of the optimizer so far.
        batches: of examples, of this process, so far.
        seconds: of training so far.
        evaluated: evaluations so far.
        rate: factor of the matrices' learning rate; less than 1 where steps were too large.
        began: share of the budget that was spent when steps began at this rate.
        tried: whether it is known by now that they are not far too large.
        average: moving averages of the trained parameters; empty without.
        stopped: why training ended before its budget; empty where it did not.
    """

    best: Best
    step: int = 0
    batches: int = 0
    seconds: float = 0.0
    evaluated: int = 0
    rate: float = 1.0
    began: float = 0.0
    tried: bool = False
    average: list[Tensor] = field(default_factory=list)
    stopped: str = ""


@dataclass(frozen=True)
class Checkpoints:
    """Writes and reads the checkpoints of one training.

    Attributes:
        folder: where they are; None to write none.
        accelerator: accelerate's, prepared.
        identity: of what is trained on what, and how; see `identify`.
    """

    folder: Path | None
    accelerator: Any
    identity: str

    def save(self, state: State) -> None:
        """Write a checkpoint, in every process."""
        if self.folder is None:
            return
        part = self.folder / f"step-{state.step}-{state.batches}"
        main = self.accelerator.is_main_process
        if main:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(part))
        self.accelerator.wait_for_everyone()
        if not main:
            return
        tensors = {f"best.{name}": tensor for name, tensor in state.best.weights.items()}
        tensors |= {f"average.{i}": t.detach().cpu() for i, t in enumerate(state.average)}
        save_file({k: t.contiguous().clone() for k, t in tensors.items()}, part / STATE)
        numbers = {name: getattr(state, name) for name in NUMBERS}
        best = {name: getattr(state.best, name) for name in ("step", "stale", "way")}
        best |= {name: asdict(getattr(state.best, name)) for name in ("start", "found", "least")}
        document = {
            "identity": self.identity,
            "folder": part.name,
            "state": numbers,
            "best": best,
        }
        target = self.folder / LATEST
        written = target.with_suffix(f".{os.getpid()}.part")
        written.write_text(json.dumps(document))
        os.replace(written, target)
        for old in self.folder.glob("step-*"):
            if old != part:
                shutil.rmtree(old, ignore_errors=True)

    def resume(self, state: State) -> bool:
        """Put everything back as the last checkpoint has it; whether there is one.

        Args:
            state: changed.

        Raises:
            StorageError: the folder's is of another training, or damaged.
        """
        if self.folder is None or not (self.folder / LATEST).is_file():
            return False
        try:
            document = json.loads((self.folder / LATEST).read_text())
            if document["identity"] != self.identity:
                raise StorageError(
                    f"checkpoint={str(self.folder)!r} holds the training of other models, examples "
                    "or settings. Name another folder, or remove this one."
                )
            part = self.folder / document["folder"]
            tensors = load_file(part / STATE)
            self.accelerator.load_state(str(part))
            for name, value in document["state"].items():
                setattr(state, name, value)
            best = document["best"]
            state.best = Best(
                start=Measured(**best["start"]),
                found=Measured(**best["found"]),
                least=Measured(**best["least"]),
                step=best["step"],
                stale=best["stale"],
                way=best["way"],
                weights={
                    name.removeprefix("best."): tensor
                    for name, tensor in tensors.items()
                    if name.startswith("best.")
                },
            )
            for number, average in enumerate(state.average):
                average.copy_(tensors[f"average.{number}"])
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise StorageError(
                f"checkpoint={str(self.folder)!r} is damaged: {type(error).__name__}: {error}. "
                "Remove the folder to begin anew."
            ) from error
        return True


def identify(small: nn.Module, *more: Any) -> str:
    """A digest of the compressed model's tensors and of what else must be the same."""
    mark = sha256()
    for name, tensor in small.state_dict().items():
        mark.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        mark.update(tensor.detach().cpu().double().numpy().tobytes())
    mark.update(repr(more).encode())
    return mark.hexdigest()
