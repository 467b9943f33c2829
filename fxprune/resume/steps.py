"""The outcomes of a run's steps, in a folder: each is computed once, however often the run is
killed.

A step is a function of what the run is of (the identity: model, data, options, versions) and of
its key. Its outcome is a file of its own, `steps/NAME-DIGEST.safetensors`, where the digest is of
identity and key; one that is missing or damaged is computed anew. `fxprune-run.json` says what the
run is of, in words that can be compared.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fxprune.errors import StorageError
from fxprune.resume.folder import LOCK, PART, alone, make_folder, replacing
from fxprune.resume.identity import differences, fingerprint
from fxprune.resume.tensor_file import DamagedFile, read_tensors, write_tensors
from fxprune.resume.typed import decode, encode

LOG = logging.getLogger("fxprune")
MANIFEST, STEPS, RESULT, FORMAT = "fxprune-run.json", "steps", "small.safetensors", 1
"""What lies in the folder beside the lock, and the version of its format."""
PARTS = "parts"
"""Folder of the folders of a model's parts, which are runs of their own."""
ANEW = "Name another folder, or remove this one to begin anew."


@dataclass(frozen=True)
class Outcome:
    """What a step gave.

    Attributes:
        value: as it was computed.
        notes: that it left for the report.
        seconds: that it took, by station.
        random: state of torch's generator after it, where it drew from that.
    """

    value: Any
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    random: Tensor | None = None


def outcome_of(document: Any, tensors: Mapping[str, Tensor], kind: Any) -> Outcome:
    """What `typed.encode` was made of.

    Args:
        document, tensors: of an outcome.
        kind: of its value.

    Raises:
        TypeError, ValueError, KeyError: it is of another kind.
    """
    found: Outcome = decode(Outcome, {**document, "value": None}, tensors)
    return replace(found, value=decode(kind, document["value"], tensors))


class Steps:
    """Steps of a run of which nothing is kept."""

    folder: Path | None = None
    result: str | None = None
    """Digest of the file of what a finished run gave."""

    def require(self, **what: str) -> None:
        """Say what the run is of, as text by what it is; underscores stand for spaces.

        Raises:
            StorageError: the folder's run was of something else; names it.
        """

    def expect(self, size: float) -> None:
        """Say how many bytes will be kept, at most.

        Raises:
            StorageError: the disk has not as many.
        """

    def find(self, name: str, key: Iterable[Any], kind: Any) -> Outcome | None:
        """What a step gave, where that is kept.

        Args:
            name: of the step, for people and the file.
            key: what the outcome depends on beside what the run is of.
            kind: of the outcome, as `typed.decode` takes it.
        """
        return None

    def keep(self, name: str, key: Iterable[Any], outcome: Outcome) -> None:
        """Keep what a step gave.

        Raises:
            StorageError: it cannot be written; what was kept before stays usable.
        """

    def forget(self, name: str = "") -> None:
        """Let go of every step whose name begins so."""

    def of_part(self, name: str) -> Path | None:
        """The folder of a part of the model, where anything is kept."""
        return None if self.folder is None else self.folder / PARTS / name

    def finish(self, result: str) -> None:
        """Say that the run's result is there, and let go of its steps.

        Args:
            result: digest of the file.

        Raises:
            OSError: it cannot be written.
        """


NOTHING_KEPT = Steps()


class KeptSteps(Steps):
    """Steps whose outcomes are kept.

    Args:
        folder: of this process alone.
    """

    def __init__(self, folder: Path):
        self.folder: Path = folder
        self._then, self.result = _read_manifest(folder / MANIFEST)
        self._now: dict[str, str] = {}

    def require(self, **what: str) -> None:
        self._now |= {name.replace("_", " "): value for name, value in what.items()}
        changed = differences(self._then or {}, self._now)
        if changed:
            raise StorageError(
                f"checkpoint={str(self.folder)!r} holds another run: {'; '.join(changed)}. {ANEW}"
            )

    def expect(self, size: float) -> None:
        held = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        free, missing = shutil.disk_usage(self.folder).free, size - held
        LOG.info("checkpoint %s takes at most %.1f MB", self.folder, size / 1e6)
        if missing > free:
            raise StorageError(
                f"checkpoint={str(self.folder)!r} may take {size / 1e6:,.0f} MB, of which "
                f"{held / 1e6:,.0f} are there; the disk has {free / 1e6:,.0f} MB left. Make room, "
                "or name a folder on another disk."
            )

    def find(self, name: str, key: Iterable[Any], kind: Any) -> Outcome | None:
        path = self._path(name, key)
        if not path.is_file():
            return None
        try:
            return outcome_of(*read_tensors(path), kind)
        except (DamagedFile, TypeError, ValueError, KeyError, RuntimeError) as error:
            LOG.warning("%s is damaged and is made anew: %s", path, error)
            return None

    def keep(self, name: str, key: Iterable[Any], outcome: Outcome) -> None:
        tensors: dict[str, Tensor] = {}
        document, path = encode(outcome, tensors), self._path(name, key)
        try:
            if self._then is None:  # what the run is of is there before its first step
                self._write_manifest()
            path.parent.mkdir(exist_ok=True)
            write_tensors(path, document, tensors)
        except OSError as error:
            raise StorageError(
                f"checkpoint={str(self.folder)!r} cannot be written: {error}. What was kept before "
                f"{name!r} is whole: make room, or the folder writable, and call again to go on."
            ) from error

    def forget(self, name: str = "") -> None:
        for path in (self.folder / STEPS).glob(f"{_slug(name)}*"):
            with suppress(OSError):
                path.unlink()

    def finish(self, result: str) -> None:
        self.result = result
        self._write_manifest()
        self.forget()

    def _path(self, name: str, key: Iterable[Any]) -> Path:
        digest = fingerprint((self._now, name, *key)).rpartition(":")[2][:24]
        return self.folder / STEPS / f"{_slug(name)}-{digest}.safetensors"

    def _write_manifest(self) -> None:
        document = {"format": FORMAT, "run": self._now, "result": self.result}
        document["sha256"] = _digest(self._now, self.result)
        with replacing(self.folder / MANIFEST) as part:
            part.write_text(json.dumps(document, indent=1))
        self._then = dict(self._now)


@contextmanager
def open_steps(folder: str | os.PathLike[str] | None) -> Iterator[Steps]:
    """The steps of a folder, which no other process has meanwhile; of none, nothing is kept.

    Raises:
        StorageError: the folder cannot be made or written to, another process has it, or it holds
            something else.
    """
    if folder is None:
        yield Steps()
        return
    path = make_folder(folder)
    with ExitStack() as stack:
        try:
            _refuse_others(path)
            stack.enter_context(alone(path))
            for left in (*path.glob(f".*{PART}"), *path.glob(f"{STEPS}/.*{PART}")):
                left.unlink()
            steps = KeptSteps(path)
        except OSError as error:
            raise StorageError(
                f"checkpoint={str(folder)!r} is no folder that can be written to: {error}."
            ) from error
        yield steps


def _refuse_others(folder: Path) -> None:
    """Check that a folder is empty or of a run: nothing else is ever written to."""
    own = re.compile(rf"{LOCK}|{STEPS}|{PARTS}|\..*{re.escape(PART)}")
    others = sorted(path.name for path in folder.iterdir() if not own.fullmatch(path.name))
    if others and not (folder / MANIFEST).is_file():
        raise StorageError(
            f"checkpoint={str(folder)!r} holds something else: {', '.join(others[:3])}. Name an "
            "empty folder, or a new one."
        )


def _read_manifest(path: Path) -> tuple[dict[str, str] | None, str | None]:
    """What the run was of and the digest of its result; None where that is not known.

    Raises:
        StorageError: another program, or a newer fxprune, wrote it.
    """
    if not path.is_file():
        return None, None
    try:
        document = json.loads(path.read_text())
    except (ValueError, RecursionError):
        LOG.warning("%s is damaged and is made anew", path)
        return None, None
    run = document.get("run") if isinstance(document, dict) else None
    if not isinstance(run, dict) or document.get("format") != FORMAT:
        raise StorageError(f"{path} is not of this version of fxprune. {ANEW}")
    result = document.get("result")
    if document.get("sha256") != _digest(run, result):
        LOG.warning("%s is damaged and is made anew", path)
        return None, None
    return {str(name): str(value) for name, value in run.items()}, result


def _digest(run: Mapping[str, str], result: str | None) -> str:
    return hashlib.sha256(json.dumps([run, result], sort_keys=True).encode()).hexdigest()


def _slug(name: str) -> str:
    """A name as a part of a file's."""
    return re.sub(r"[^\w.]+", "-", name, flags=re.ASCII)[:80]
