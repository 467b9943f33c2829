"""JSON read as frozen dataclasses: every value of the type that its field is annotated with.

JSON has no numbers that are not finite: they are written as null, and null for a number is NaN.
"""

import math
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def finite(value: Any) -> Any:
    """Values for JSON: what is no finite number becomes None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_typed(kind: Any, value: Any, name: str) -> Any:
    """JSON as a dataclass, or as what one of its fields is annotated with.

    Raises:
        TypeError: it is of another type.
    """
    origin, of = get_origin(kind), get_args(kind)
    if kind is Any or kind is float and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is float and value is None:
        return math.nan
    if origin in (Union, UnionType):
        return (
            None
            if value is None
            else read_typed(next(k for k in of if k is not type(None)), value, name)
        )
    if origin is tuple and isinstance(value, list):
        kinds = of[:1] * len(value) if of[1:] == (...,) else of
        return tuple(read_typed(k, v, name) for k, v in zip(kinds, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {read_typed(of[0], k, name): read_typed(of[1], v, name) for k, v in value.items()}
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        unknown = sorted(set(value) - set(hints))
        if unknown:
            raise TypeError(f"{name} has no {unknown[0][:80]!r}")
        return kind(**{k: read_typed(hints[k], v, k) for k, v in value.items()})
    if (
        isinstance(kind, type)
        and isinstance(value, kind)
        and not (isinstance(value, bool) and kind is int)
    ):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}")
