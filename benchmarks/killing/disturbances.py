"""What can happen to a run, at a moment that is drawn; and what must hold afterwards."""

import hashlib
import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.killing.processes import PATIENCE, Ended, Told
from benchmarks.killing.runs import BATCH, Examples, Job, Run
from fxprune.resume.folder import PART
from fxprune.resume.steps import MANIFEST, RESULT, STEPS
from fxprune.resume.tensor_file import DamagedFile, read_tensors

LONGEST = 600.0
"""Seconds that a run which nothing ends may take."""
FINISHED = "finished before"
GONE = "another one", "for the call of rank"
"""In the error of a process that misses another."""
MEETING = 1 << 14
"""Bytes that the file takes by which the processes of a run find each other."""


@dataclass(frozen=True)
class Outcome:
    """What came of one disturbance.

    Attributes:
        kind: of it.
        ended: how the run ended, in a word or two.
        seconds: from the disturbance to the end.
        wrong: what should not be, in words; empty where all is right.
        told: by the process that keeps the steps.
    """

    kind: str
    ended: str
    seconds: float
    wrong: str
    told: Told


@dataclass(frozen=True)
class Bench:
    """What a disturbance is tried on.

    Attributes:
        job: what is compressed.
        folder: of the checkpoint.
        seconds: that an undisturbed run takes.
        files: sizes of the files that it writes.
        draw: what everything is drawn from.
        ranks: processes of a run.
    """

    job: Job
    folder: Path
    seconds: float
    files: tuple[int, ...]
    draw: random.Random
    ranks: int = 1

    def run(self, **disturbed: Any) -> Run:
        """A run, of which one process is disturbed: any by default."""
        at = self.draw.randrange(self.ranks)
        return Run(self.job, self.folder, self.ranks, **{"at": at, **disturbed})


def by_signal(number: signal.Signals) -> Callable[[Bench], Outcome]:
    """Sent at any moment of the run."""
    name = number.name

    def disturb(bench: Bench) -> Outcome:
        run = bench.run()
        _wait(bench, run)
        run.send(number)
        return judge(bench, name, run, {-number, 130} if name == "SIGINT" else {-number})

    return disturb


def _wait(bench: Bench, run: Run) -> None:
    """Until a moment that is drawn: some way into one of the steps that are left, or into what
    comes before the first.
    """
    there = len(list((bench.folder / STEPS).glob("*.safetensors")))
    steps = bench.draw.randrange(max(len(bench.files) - there, 1))
    if steps:
        run.wait(LONGEST, steps)
    run.wait(bench.draw.uniform(0, bench.seconds / (len(bench.files) if steps else 3)))


def while_writing(bench: Bench) -> Outcome:
    """SIGKILL just before or after a file gets its name."""
    there = len(list((bench.folder / STEPS).glob("*.safetensors")))
    at = bench.draw.randrange(1, max(len(bench.files) - there, 1) + 2)
    after = bench.draw.random() < 0.5

    def prepare() -> None:
        replace, seen = os.replace, list[object]()

        def killing(source: object, target: object) -> None:
            seen.append(target)
            if len(seen) == at and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)  # type: ignore[arg-type]
            if len(seen) == at:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = killing  # type: ignore[assignment]

    run = bench.run(at=0, prepare=prepare)
    return judge(bench, "SIGKILL while a file is written", run, {-signal.SIGKILL}, LONGEST)


def without_disk(bench: Bench) -> Outcome:
    """No file may grow past a size (RLIMIT_FSIZE): writing fails midway, as on a full disk."""
    most = bench.draw.randrange(min(MEETING, max(bench.files) - 1), max(bench.files))

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    run = bench.run(at=0, prepare=prepare)
    return judge(bench, "no room on the disk", run, {3}, LONGEST, "cannot be written")


def loader_fails(bench: Bench) -> Outcome:
    """An exception of the loader's, at any batch."""
    run = bench.run(examples=Examples(bench.job.images, fails_at=_batch(bench)))
    return judge(bench, "exception in the loader", run, {3}, LONGEST, "image file is damaged")


def batch_is_spoiled(bench: Bench) -> Outcome:
    """A NaN in any batch."""
    run = bench.run(examples=Examples(bench.job.images, spoiled=_batch(bench)))
    return judge(bench, "NaN in a batch", run, {3}, LONGEST, "NaN")


def _batch(bench: Bench) -> int:
    return bench.draw.randrange(-(-len(bench.job.images) // BATCH))


def two_at_once(bench: Bench) -> Outcome:
    """A second run in the same folder, while the first goes on and is then killed."""
    first = bench.run()
    first.wait(LONGEST, 1)
    second = judge(bench, "second run at once", bench.run(), {3}, LONGEST, "in use", writes=True)
    first.send(signal.SIGKILL)
    ended, _ = first.end()
    second.told.kept += ended[0].told.kept
    return second


def damage(bench: Bench) -> Outcome:
    """A file of a run that was killed, cut short or with a bit turned over."""
    found = by_signal(signal.SIGKILL)(bench)
    files = [p for p in sorted(bench.folder.rglob("*")) if p.is_file() and p.stat().st_size]
    files = [p for p in files if p.name != "lock" and p.suffix != PART]
    if files:
        path = bench.draw.choice(files)
        data = bytearray(path.read_bytes())
        at = bench.draw.randrange(len(data))
        if bench.draw.random() < 0.5:
            del data[at:]
        else:
            data[at] ^= 1 << bench.draw.randrange(8)
        path.write_bytes(data)
    return replace(found, kind="a file is damaged afterwards")


def worth(folder: Path) -> list[str]:
    """Names of the steps that need not be made again: their files are whole. A recording and the
    sums that belong to it are of use together.
    """
    names = [p.name for p in sorted((folder / STEPS).glob("*.safetensors")) if not _damaged(p)]
    observation = [name for name in names if name.startswith(("recording-", "observed-"))]
    both = {name.partition("-")[0] for name in observation} == {"recording", "observed"}
    return [name for name in names if both or name not in observation]


def _damaged(path: Path) -> str:
    """Why a step's file is not whole; empty where it is."""
    try:
        read_tensors(path)
    except DamagedFile as error:
        return str(error)
    return ""


KINDS: tuple[Callable[[Bench], Outcome], ...] = (
    by_signal(signal.SIGKILL),
    by_signal(signal.SIGTERM),
    by_signal(signal.SIGINT),
    while_writing,
    without_disk,
    loader_fails,
    batch_is_spoiled,
    two_at_once,
    damage,
)


def judge(
    bench: Bench,
    kind: str,
    run: Run,
    codes: set[int],
    seconds: float = PATIENCE,
    words: str = "",
    *,
    writes: bool = False,
) -> Outcome:
    """How a disturbed run ended.

    Args:
        bench: it was tried on.
        kind: of the disturbance.
        run: that was disturbed.
        codes: with which it may end; it may also have finished before.
        seconds: that it may take from now on.
        words: in the error.
        writes: whether another run writes to the folder meanwhile.
    """
    start = time_of(run)
    ended, hung = run.end(seconds)
    code = ended[run.at].code
    wrong = f"no end within {seconds:.0f} s" if hung else wrong_in(ended, run.at, codes, words)
    wrong = wrong or half_written(bench.folder, leaves_parts=writes or ended[0].code < 0)
    how = FINISHED if code == 0 else "error in words" if code == 3 else "killed"
    return Outcome(kind, how, time_of(run) - start, wrong, ended[0].told)


def wrong_in(ended: Sequence[Ended], at: int, codes: set[int], words: str) -> str:
    """What should not be in how processes ended, in words: when one ends in an error, all raise it,
    and when one is killed, the others say so, unless they were through.
    """
    code, found = ended[at].code, list[str]()
    others = {0} if code == 0 else {3} if code == 3 else {0, 3}
    for rank, one in enumerate(ended):
        own = codes | {0} if rank == at else others
        if one.code not in own:
            found.append(f"rank {rank} ends with {one.code}: {one.told.error or one.told.crash}")
        elif one.code == 3 and not any(
            word in one.told.error for word in ((words,) if code == 3 else GONE)
        ):
            found.append(f"rank {rank} has another error: {one.told.error}")
    return "; ".join(found)


def time_of(run: Run) -> float:
    """Seconds since a run began."""
    return time.monotonic() - run.start


def half_written(folder: Path, leaves_parts: bool) -> str:
    """The first file that is not whole, in words; empty where all are.

    Args:
        folder: of a checkpoint.
        leaves_parts: whether the process was killed, which leaves what it was writing under a
            name that is never read.
    """
    for path in sorted(folder.rglob("*")):
        if path.suffix == PART and not leaves_parts:
            return f"{path.name} was left"
        if path.suffix == ".safetensors" and path.parent.name == STEPS:
            reason = _damaged(path)
            if reason:
                return f"{path.name} is not whole: {reason}"
    manifest, result = folder / MANIFEST, folder / RESULT
    if manifest.is_file():
        found = json.loads(manifest.read_text()).get("result")
        if found and hashlib.sha256(result.read_bytes()).hexdigest() != found:
            return f"{RESULT} is not whole"
    return ""
