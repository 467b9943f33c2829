"""A compressing run in a forked process, which tells what it keeps and how it ends."""

import hashlib
import json
import math
import os
import selectors
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxprune
from fxprune.demo.data import load
from fxprune.demo.net import VGG
from fxprune.demo.run import vgg
from fxprune.errors import FxpruneError
from fxprune.resume.steps import KeptSteps

PATIENCE = 30.0
"""Seconds after which a run that should have ended hangs."""
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


@dataclass
class Told:
    """What a run told before it ended.

    Attributes:
        kept: names of the steps that it kept.
        digest: of its result; empty where it gave none.
        error: in words, of fxprune's; empty where there was none.
        crash: a traceback of anything else.
    """

    kept: list[str] = field(default_factory=list)
    digest: str = ""
    error: str = ""
    crash: str = ""


class Run:
    """A run on its way.

    Args:
        job: what is compressed.
        folder: of the checkpoint; None for none.
        examples: the loader; the job's images by default.
        prepare: called in the new process before it begins.
    """

    def __init__(
        self,
        job: Job,
        folder: Path | None,
        examples: Examples | None = None,
        prepare: Callable[[], object] = lambda: None,
    ):
        self._read, write = os.pipe()
        self._text = b""
        self.start = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._read)
            _work(job, folder, examples or Examples(job.images), prepare, write)
        os.close(write)

    def wait(self, seconds: float, steps: float = math.inf) -> bool:
        """Listen so long, or until the run has kept so many steps, or ends; whether it did."""
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._read, selectors.EVENT_READ)
            while (left := end - time.monotonic()) > 0 and self._text.count(b"\n") < steps:
                if selector.select(left):
                    text = os.read(self._read, 1 << 16)
                    if not text:
                        return True
                    self._text += text
        return False

    def send(self, number: signal.Signals) -> None:
        """A signal."""
        os.kill(self.pid, number)

    def end(self, seconds: float = PATIENCE) -> tuple[int, Told, bool]:
        """Wait for the end: exit code (negative for a signal), what was told, whether it hung."""
        hung = not self.wait(seconds)
        if hung:
            self.send(signal.SIGKILL)
            self.wait(PATIENCE)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._read)
        told = Told()
        # The last line may be half of one.
        for line in self._text.decode().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            for name, value in entry.items():
                if name == "kept":
                    told.kept.append(value)
                else:
                    setattr(told, name, value)
        return code, told, hung


def _work(
    job: Job, folder: Path | None, examples: Examples, prepare: Callable[[], object], pipe: int
) -> None:
    """In the new process; does not return."""

    def tell(**entry: str) -> None:
        os.write(pipe, (json.dumps(entry) + "\n").encode())

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
