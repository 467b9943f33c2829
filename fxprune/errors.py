"""Errors for people: each says where, what, why and what to do about it. Warnings likewise, at the
caller's line.
"""

import sys
import warnings
from collections.abc import Callable
from typing import Any

INSIDE = frozenset({"fxprune", "torch", "functools", "contextlib"})
"""Packages whose lines a warning never points at: ours, and wrappers between ours."""


class FxpruneError(Exception):
    """Base of every error that fxprune raises on purpose."""


class CaptureError(FxpruneError):
    """The model could not be turned into a graph."""


class UnsupportedError(FxpruneError):
    """The model was captured, but holds something fxprune cannot compress (dtype, no prunable
    group).
    """


class CalibrationError(FxpruneError):
    """The calibration data is empty, malformed or not finite."""


class BudgetError(FxpruneError):
    """The budget is not a fraction of the original, or cannot be reached; names the closest
    reachable.
    """


class PlanError(FxpruneError):
    """The plan does not fit the model."""


class ArgumentError(FxpruneError):
    """A compressed model was called with another constant than it was compressed for."""


class CalibrationWarning(UserWarning):
    """Something that calibration shows and only the caller can mend: data that is thin for what is
    fitted on it or repeats itself, an open decision, few decisions kept.
    """


class SourceError(FxpruneError):
    """A model, weights or data named on the command line cannot be loaded."""


class StorageError(FxpruneError):
    """A model cannot be saved, or a file is not one that fxprune wrote: damaged, tampered with,
    newer, or made for another model.
    """


class DistributedError(FxpruneError):
    """Processes that work together do not, or one of them failed; says which."""


class PassError(PlanError):
    """A pass could not be run, or did not keep its contract."""


class RequirementError(PassError):
    """A graph is not what a pass requires. Its cause says what is missing, and where."""


class DeclarationError(PassError):
    """A pass did something else than it declares: in place or functional, modified or not."""


class PostconditionError(PassError):
    """A pass left a graph that is not well formed, or not what the pass ensures. Its cause says
    where.
    """


def name_function(function: Callable[..., Any]) -> str:
    """What messages call a caller's function: its name, or its class's."""
    return str(getattr(function, "__name__", type(function).__name__))


def warn_caller(text: str) -> None:
    """Give a `CalibrationWarning` at the line that called fxprune."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in INSIDE:
            break
        frame = frame.f_back
    warnings.warn_explicit(
        text,
        CalibrationWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=frame.f_globals.get("__name__"),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )
