"""What `--groups` says: which examples of the data on the command line belong together."""

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fxprune.calibrate.groups import Groups
from fxprune.cli import models, sources
from fxprune.cli.stored import INPUTS, KEYS, stored
from fxprune.errors import SourceError

TABLES = {".csv": ",", ".tsv": "\t"}
"""Suffixes of tables and what stands between their columns."""
FOLDER = "folder"
"""Images of one folder belong together."""
FORMS = (
    "FILE.csv:COLUMN (a table that names the images), folder (images of one folder), or a regular "
    "expression whose match in the path is the group"
)
"""What images of a folder are grouped by."""


def read_groups(text: str, spec: str, loader: Any, limit: int | None = None) -> Groups | None:
    """One label per example, as the library takes them; None for an empty text.

    Args:
        text: what `--groups` says.
        spec: what `--data` says, and `loader` what it gave.
        limit: most examples, of arrays.

    Raises:
        SourceError: says what is missing, and which forms there are.
    """
    if not text:
        return None
    path, colon, column = text.rpartition(":")
    if Path(path).suffix.lower() not in TABLES:
        path, column = (text, "") if Path(text).suffix.lower() in TABLES else ("", "")
    if isinstance(loader, sources.ImageFolder):
        if path:
            return _Table(Path(path), column).by_file(loader.folder, loader.files)
        return list(_by_path(text, loader.folder, loader.files))
    if Path(spec).suffix == ".npz":
        labels = _Table(Path(path), column).labels if path else _array(Path(spec), text)
        total = len(stored(Path(spec), KEYS, INPUTS))
        if len(labels) != total:
            raise SourceError(
                f"--groups {text}: {len(labels)} labels for {total} examples in {spec}. Give one "
                "label for every example, in the same order."
            )
        return labels[:limit]
    if path:
        return _Table(Path(path), column).labels
    return text if not colon else _function(text)


class _Table:
    """Labels in a column of a table with a line of names at its top.

    Args:
        path: of the table.
        column: that holds the labels.

    Raises:
        SourceError: there is no such table or column, or labels are missing.
    """

    def __init__(self, path: Path, column: str):
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.DictReader(file, delimiter=TABLES[path.suffix.lower()]))
        except (OSError, ValueError, csv.Error) as error:
            raise SourceError(f"--groups: {path} cannot be read as a table: {error}.") from error
        names = [name for name in (rows[0] if rows else ()) if name is not None]
        if column not in names:
            raise SourceError(
                f"--groups: name a column of {path}, as {path}:COLUMN; it has "
                f"{', '.join(names) or 'no line'}."
            )
        self._path, self._column, self._rows = path, column, rows
        self.labels = [row[column] or "" for row in rows]
        empty = next((at for at, label in enumerate(self.labels) if not label.strip()), None)
        if empty is not None:
            raise SourceError(
                f"--groups: the column {column} of {path} is empty in line {empty + 2}. Give every "
                "example a label."
            )

    def by_file(self, folder: Path, files: Sequence[Path]) -> list[str]:
        """The label of every file, by the column that names most of them.

        Args:
            folder: that the files lie in.
            files: whose labels are looked for.

        Raises:
            SourceError: a file is not in the table, or stands there with two labels.
        """
        known = _by_name([folder, self._path.parent], files)
        others = [name for name in self._rows[0] if name not in (self._column, None)]
        found = max((self._matching(name, known) for name in others), key=len, default={})
        missing = [file for file in files if file not in found]
        if missing:
            raise SourceError(
                f"--groups: no column of {self._path} names {len(missing)} of the {len(files)} "
                f"images, such as {missing[0].relative_to(folder)}. Name the images by their paths "
                "below the folder of the images or of the table, or by names of which there is one."
            )
        return [found[file] for file in files]

    def _matching(self, name: str, known: dict[str, Path]) -> dict[Path, str]:
        found: dict[Path, str] = {}
        for row, label in zip(self._rows, self.labels, strict=True):
            text = (row[name] or "").strip().replace("\\", "/")
            file = known.get(text.removeprefix("./"))
            if file is not None and found.setdefault(file, label) != label:
                raise SourceError(
                    f"--groups: {self._path} gives {row[name]} two labels, {found[file]} and "
                    f"{label}. An image belongs to one group."
                )
        return found


def _by_name(folders: Sequence[Path], files: Sequence[Path]) -> dict[str, Path]:
    """Files by all that a table may call them: whole paths and paths below a folder first, then
    names that no other file has, each with its suffix and without.
    """
    known: dict[str, Path] = {}
    names = Counter(text for file in files for text in {file.name, file.stem})
    for file in files:
        absolute = file.absolute()
        paths = [file, absolute]
        paths += [absolute.relative_to(f.absolute()) for f in folders if _below(absolute, f)]
        for path in paths:
            known[path.as_posix()] = known[path.with_suffix("").as_posix()] = file
    for file in files:
        for text in (file.name, file.stem):
            if names[text] == 1:
                known.setdefault(text, file)
    return known


def _below(path: Path, folder: Path) -> bool:
    return path.is_relative_to(folder.absolute())


def _by_path(text: str, folder: Path, files: Sequence[Path]) -> Iterator[str]:
    """Labels from the paths of images below their folder, by a regular expression's first group, or
    all of its match.
    """
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise SourceError(
            f"--groups {text!r} is no regular expression: {error}. Images of a folder are grouped "
            f"by {FORMS}."
        ) from error
    for file in files:
        path = file.relative_to(folder)
        if text == FOLDER:
            yield path.parent.as_posix()
            continue
        match = pattern.search(path.as_posix())
        label = match and (match[1] if pattern.groups else match[0])
        if not label:
            raise SourceError(
                f"--groups {text!r} matches nothing in {path}. Images of a folder are grouped by "
                f"{FORMS}."
            )
        yield label


def _array(path: Path, key: str) -> list[Any]:
    """Another array of an .npz, one label for each row of the inputs."""
    labels = stored(path, (key,), "the labels of --groups")
    if labels.ndim != 1:
        raise SourceError(
            f"--groups: the array {key} of {path} has the shape {labels.shape}; give one label for "
            "every example."
        )
    return list(labels.tolist())


def _function(text: str) -> Callable[[Any], Any]:
    """The function of a batch that `package.module:function` names."""
    named = models.named(text)
    if not callable(named):
        raise SourceError(
            f"--groups {text}: a {type(named).__name__} is no function of a batch. Name one that "
            "gives a label for every example in it."
        )
    return named  # type: ignore[no-any-return]
