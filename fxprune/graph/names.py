"""Names that follow one pattern, put together: twelve layers of a stack are one row of a table."""

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
LEVELS = (
    None,
    r"((?<![\w\[])\d+(?!\w)|_\d+(?=\))|(?<!\d)(?=\)))",
    r"((?<![\[\d])\d+(?=[^\s:)]*\.)|(?<![\w\[])\d+(?!\w)|_\d+(?=\))|(?<!\d)(?=\)))",
    r"((?<![\[\d])\d+|_\d+(?=\))|(?<!\d)(?=\)))",
)
"""What names may differ in, from nothing over numbers of their own, and those in what lies before a
dot, to any number. An axis, `[0]`, never differs, the number of a call at the end of brackets,
`(features.0: conv2d_3)`, always may.
"""
INDENT = "  "


@dataclass(frozen=True)
class Alike(Generic[T]):
    """Things whose names follow one pattern.

    Attributes:
        name: theirs, with `*` where they differ; the only one's own.
        items: in order.
    """

    name: str
    items: tuple[T, ...]


def put_together(
    items: Iterable[T],
    name: Callable[[T], str],
    apart: Callable[[T], Hashable] = lambda item: None,
    most: int = 16,
) -> list[Alike[T]]:
    """Put things together whose names differ in numbers only, no further than a number of rows
    asks; in order of the first of each.

    Args:
        items: what is listed.
        name: of one.
        apart: things for which this differs stay apart.
        most: rows that are wanted; there may be more, where names differ in words.
    """
    listed, rows = list(items), list[Alike[T]]()
    for level in LEVELS:
        rows = _at_level(listed, name, apart, level)
        if len(rows) <= most:
            break
    return rows


def _at_level(
    items: Sequence[T],
    name: Callable[[T], str],
    apart: Callable[[T], Hashable],
    level: str | None,
) -> list[Alike[T]]:
    found: dict[Hashable, list[tuple[list[str], T]]] = {}
    for number, item in enumerate(items):
        text = name(item)
        parts = [text] if level is None else re.split(level, text)
        alike = number if level is None else tuple(parts[::2])
        found.setdefault((alike, apart(item)), []).append((parts, item))
    return [
        Alike(_common([parts for parts, _ in rows]), tuple(item for _, item in rows))
        for rows in found.values()
    ]


def _common(names: Sequence[Sequence[str]]) -> str:
    """One name for several of equally many parts."""
    return "".join(parts[0] if len(set(parts)) == 1 else "*" for parts in zip(*names, strict=True))


def break_at_dots(text: str, width: int, indent: str = "") -> str:
    """A name or a text with names on as many lines as it needs, which end at dots and spaces where
    they can; those after the first are indented a little more.
    """
    lines, line = list[str](), indent
    for part in re.split(r"(?<=[. ])", text):
        if line.strip() and len(line) + len(part.rstrip()) > width:
            lines.append(line.rstrip())
            line = indent + INDENT
        line += part
    return "\n".join([*lines, line])
