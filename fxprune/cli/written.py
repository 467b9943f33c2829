"""Where results go: checked before the work, written after it, and what to type next."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile

from torch import nn

import fxprune
from fxprune.cli.models import SAVED
from fxprune.cli.output import show
from fxprune.distributed.together import current
from fxprune.errors import SourceError
from fxprune.handover.report import parts_of

RESULTS = (SAVED, "plan.json", "report.json")
"""All that is in the folder of a compressed model."""


def check_folder(folder: Path | None) -> None:
    """Whether results can be written to a folder, if to any, before there are results; nothing is
    left there.

    Raises:
        SourceError: says why not.
    """
    if folder is None or not current().is_first:
        return
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    made: list[Path] = []
    try:
        for path in reversed(missing):
            path.mkdir()
            made.append(path)
        taken = next((n for n in RESULTS if (folder / n).is_dir()), None)
        if taken is not None:
            raise SourceError(f"--out {folder} holds a folder {taken}. Name another one.")
        with TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        raise SourceError(
            f"--out {folder} cannot be written to: {error}. Name a folder that exists or can be "
            "made."
        ) from error
    finally:
        for path in reversed(made):
            path.rmdir()


def check_file(file: Path | None, option: str) -> None:
    """Whether a file can be written, if any is named, before there is anything to write.

    Raises:
        SourceError: says why not.
    """
    if file is None or not current().is_first:
        return
    try:
        if file.is_dir():
            raise SourceError(f"{option} {file} is a folder. Name a file.")
        with TemporaryFile(dir=file.parent):
            pass
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{option} {file} cannot be written: {error}. Name a file in a folder that exists."
        ) from error


def check_places(folder: Path | None, page: Path | None) -> None:
    """Whether a folder and a page can be written, where any is named.

    Raises:
        SourceError: says which cannot.
    """
    check_folder(folder)
    check_file(page, "--html")


def put_out(small: nn.Module, folder: Path | None, page: Path | None, as_json: bool) -> list[str]:
    """Write what was made and its page, where any is named, and print the report.

    Returns:
        lines that say where the files are.
    """
    if not current().is_first:
        return []
    result = fxprune.report(small)
    written = write_results(small, folder)
    if page is not None:
        result.to_html(page)
        written.append(page)
    show(result, result.to_json(), as_json)
    return say_written(written)


def write_results(small: nn.Module, folder: Path | None) -> list[Path]:
    """The compressed model, its plan and its report, if a folder is named; compressed parts of a
    model each in a folder of its name.

    Returns:
        the folders and files that were written.
    """
    if folder is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    parts = parts_of(small)
    write_whole(folder / "report.json", fxprune.report(small).to_json(indent=1))
    if "" not in parts:
        inside = [write_results(small.get_submodule(name), folder / name) for name in parts]
        return [*(path for written in inside for path in written), folder / "report.json"]
    write_whole(folder / "plan.json", fxprune.plan_of(small).to_json())
    fxprune.save(small, folder / SAVED)
    return [folder / name for name in RESULTS]


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def say_written(files: Sequence[Path]) -> list[str]:
    """Where files are: a line per folder."""
    by_folder: dict[Path, list[str]] = {}
    for file in files:
        by_folder.setdefault(file.parent, []).append(file.name)
    return [
        f"Wrote {', '.join(names)} in {folder}{'' if str(folder).endswith('/') else '/'}"
        for folder, names in by_folder.items()
    ]


def say_next(*words: object) -> str:
    """The next command to type; words in capitals are for the reader to fill in."""
    return "Next: " + shlex.join([str(word) for word in words])
