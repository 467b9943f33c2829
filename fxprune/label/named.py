"""Parameters and channel groups by the names that a caller gives."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from torch import nn

from fxprune.errors import PlanError
from fxprune.label.groups import Analysis


def read_names(value: Any, option: str) -> tuple[str, ...]:
    """One name or several, as a tuple; an iterator is read once.

    Raises:
        PlanError: it is something else.
    """
    try:
        names = (value,) if isinstance(value, str) else tuple(value)
    except TypeError:
        names = (value,)
    if not all(isinstance(name, str) for name in names):
        raise PlanError(
            f'{option}={value!r}: give names (globs) of modules or parameters, such as ["head.*"].'
        )
    return names


def matcher(model: nn.Module, patterns: Sequence[str] | str, option: str) -> Callable[[str], bool]:
    """A test whether a parameter belongs to a named module; names may be globs.

    Raises:
        PlanError: a name matches nothing.
    """
    patterns = read_names(patterns, option)
    names = [n for n, _ in model.named_modules() if n] + [n for n, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(n, pattern) for n in names):
            some = ", ".join(names[:5])
            raise PlanError(
                f"{option}={pattern!r} matches no module or parameter of the model. Its names "
                f"begin with {some}."
            )

    def test(parameter: str) -> bool:
        parts = parameter.split(".")
        return any(
            fnmatchcase(".".join(parts[:i]), p) for p in patterns for i in range(1, len(parts) + 1)
        )

    return test


def least_shares(model: nn.Module, analysis: Analysis, keep: Mapping[str, float]) -> np.ndarray:
    """The least share of each group's channels that `keep` asks for, (groups,).

    Raises:
        PlanError: a name matches nothing, or a share is not in (0, 1].
    """
    floor = np.zeros(len(analysis.groups))
    for pattern, share in keep.items():
        if not 0 < share <= 1:
            raise PlanError(
                f"keep[{pattern!r}]={share!r}: give the least share of the channels to keep, "
                "above 0 and at most 1."
            )
        matches = matcher(model, pattern, "keep")
        for i, group in enumerate(analysis.groups):
            if any(matches(name) for name, _ in group.members):
                floor[i] = max(floor[i], share)
    return floor
