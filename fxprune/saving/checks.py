"""What the text of a file may be: entries of their type, names that can be nothing but names.

A GraphModule compiles its graph to Python source, into which torch.fx writes argument names,
keyword names and attribute paths verbatim. So every string that could reach that source is matched
against a pattern first.
"""

import keyword
import re
from typing import Any

from fxprune.errors import StorageError

PART = re.compile(r"(?!__)[A-Za-z0-9_][A-Za-z0-9_ +:@<>=|,-]*", re.ASCII)
IDENTIFIER = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
RESERVED = frozenset(
    {"self", "torch", "fx_pytree", "pytree", "getattr", "check_argument", "check_rows"}
)
"""Names that the compiled source relies on."""


def field(entry: Any, name: str, kind: type | tuple[type, ...]) -> Any:
    """An entry of a JSON object.

    Raises:
        StorageError: `entry` is no object, or the entry is missing or of another type.
    """
    if not isinstance(entry, dict) or name not in entry:
        raise StorageError(f"The file's description lacks {name!r}.")
    value = entry[name]
    if not isinstance(value, kind) or isinstance(value, bool) and kind is int:
        raise StorageError(f"The file's description holds a {type(value).__name__} as {name!r}.")
    return value


def check_path(path: Any) -> str:
    """A qualified name of a module or tensor.

    Raises:
        StorageError: it is not words joined by dots.
    """
    if (
        not isinstance(path, str)
        or len(path) > 1000
        or not all(PART.fullmatch(part) for part in path.split("."))
    ):
        raise StorageError(
            f"{str(path)[:80]!r} is not the name of a layer or tensor: names are letters, digits "
            "and _ joined by dots."
        )
    return path


def check_identifier(name: Any) -> str:
    """A Python identifier.

    Raises:
        StorageError: it is something else, a keyword, begins with two underscores, or hides what
            the compiled source relies on.
    """
    if (
        not isinstance(name, str)
        or not IDENTIFIER.fullmatch(name)
        or keyword.iskeyword(name)
        or name in RESERVED
        or len(name) > 1000
    ):
        raise StorageError(f"{str(name)[:80]!r} is not the name of an argument.")
    return name
