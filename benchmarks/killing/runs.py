"""A compressing run in forked processes, which tell what they keep and how they end."""

import hashlib
import json
import math
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, distributed, nn

import fxprune
from benchmarks.killing.processes import PATIENCE, Ended, Process, Tell, listen
from fxprune.demo.data import load
from fxprune.demo.net import VGG
from fxprune.demo.run import vgg
from fxprune.distributed import together
from fxprune.errors import FxpruneError
from fxprune.resume.steps import KeptSteps

ARRIVAL = timedelta(seconds=20)
"""That one process waits for the call of another, which torchrun would tell it is gone."""
TIMED = ("seconds", "peak_memory", "passes")
"""What a report says of times and memory: it is another in every run."""
BATCH = 100


@dataclass
class Examples:
    """Batches of images, as a loader gives them.

    Attributes:
        images: all of them.
        fails_at: number of the batch at which reading fails; None for none.
        spoiled: number of the batch that holds a NaN, likewise.
    """

    images: Tensor
    fails_at: int | None = None
    spoiled: int | None = None

    def __iter__(self) -> Iterator[Tensor]:
        for number, batch in enumerate(self.images.split(BATCH)):
            if number == self.fails_at:
                raise OSError("the image file is damaged")
            if number == self.spoiled:
                batch = batch.clone()
                batch[0, 0, 0, 0] = torch.nan
            yield batch


def warm_up() -> None:
    """Compress something, so that the forks need not load what is loaded when it is first used."""
    job = make_job("small", 200, {"flops": 0.5, "effort": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fxprune.compress(job.net, Examples(job.images), progress=False, **job.options)


@dataclass(frozen=True)
class Job:
    """What is compressed.

    Attributes:
        net: the model.
        images: for calibration.
        options: of `fxprune.compress`.
    """

    net: nn.Module
    images: Tensor
    options: dict[str, Any]


def make_job(name: str, images: int, options: dict[str, Any]) -> Job:
    """The demo's trained network (`vgg`), or one of the same kind that is small and untrained."""
    if name == "vgg":
        return Job(vgg(), load().calibration[:images], options)
    torch.manual_seed(0)
    return Job(VGG(widths=(4, 6, 8), hidden=16).eval(), load().calibration[:images], options)


class Run:
    """A run on its way, of one process or of several that work together.

    Args:
        job: what is compressed.
        folder: of the checkpoint; None for none.
        ranks: processes.
        at: the one that is disturbed.
        examples: its loader; the job's images by default.
        prepare: called in it before it begins.
    """

    def __init__(
        self,
        job: Job,
        folder: Path | None,
        ranks: int = 1,
        at: int = 0,
        examples: Examples | None = None,
        prepare: Callable[[], object] = lambda: None,
    ):
        self.start, self.at = time.monotonic(), at
        self._meeting = None
        if ranks > 1:
            self._meeting = TemporaryDirectory()
        usual, disturbed = Examples(job.images), examples or Examples(job.images)
        self._processes = [
            Process(
                partial(
                    _work,
                    job,
                    folder,
                    disturbed if rank == at else usual,
                    prepare if rank == at else _nothing,
                    partial(join, self._meeting.name, rank, ranks) if self._meeting else _nothing,
                )
            )
            for rank in range(ranks)
        ]
        # Who is killed before all are there is waited for: torchrun would end the others.
        listen(self._processes, PATIENCE, lines=1)

    def wait(self, seconds: float, steps: float = math.inf) -> bool:
        """Listen so long, or until the run has kept so many steps, or ends; whether it did."""
        return listen(self._processes, seconds, 1 + steps)

    def send(self, number: signal.Signals) -> None:
        """A signal, to the process that is disturbed."""
        self._processes[self.at].send(number)

    def end(self, seconds: float = PATIENCE) -> tuple[list[Ended], bool]:
        """Wait for the end: how every process ended, and whether one hung."""
        hung = not self.wait(seconds)
        if hung:
            for process in self._processes:
                process.send(signal.SIGKILL)
            self.wait(PATIENCE)
        ended = [process.end() for process in self._processes]
        if self._meeting is not None:
            self._meeting.cleanup()
        return ended, hung


def _nothing() -> None:
    """Not to be done by this process."""


def join(folder: str, rank: int, ranks: int) -> None:
    """Make a process a rank of a group.

    Args:
        folder: in which the ranks meet.
        rank, ranks: number of this one, and how many there are.
    """
    together.ARRIVAL = ARRIVAL
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks
    )


def _work(
    job: Job,
    folder: Path | None,
    examples: Examples,
    prepare: Callable[[], object],
    join: Callable[[], object],
    tell: Tell,
) -> None:
    """In the new process; does not return."""
    code, keep = 1, KeptSteps.keep

    def told(self: KeptSteps, name: str, key: Any, outcome: Any) -> None:
        key = tuple(key)
        keep(self, name, key, outcome)
        tell(kept=self._path(name, key).name)

    try:
        # A shell's background process ignores it, and so do its children.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        KeptSteps.keep = told  # type: ignore[method-assign]
        join()
        tell(joined="")
        prepare()
        small = fxprune.compress(
            job.net, examples, checkpoint=folder, progress=False, **job.options
        )
        tell(digest=digest(small))
        code = 0
    except FxpruneError as error:
        tell(error=str(error))
        code = 3
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        tell(crash=traceback.format_exc())
    finally:
        os._exit(code)


def digest(small: nn.Module) -> str:
    """Of a compressed model's tensors, plan and report, without its times."""
    mark = hashlib.sha256()
    for name, tensor in small.state_dict().items():
        mark.update(name.encode() + tensor.numpy().tobytes())
    report = json.loads(fxprune.report(small).to_json())
    told = {name: value for name, value in report.items() if name not in TIMED}
    mark.update(fxprune.plan_of(small).to_json().encode() + json.dumps(told).encode())
    return mark.hexdigest()
