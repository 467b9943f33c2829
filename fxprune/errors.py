"""Errors for people: each says where, what, why and what to do about it."""


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


class CalibrationWarning(UserWarning):
    """The calibration data is thin for what is fitted on it."""


class SourceError(FxpruneError):
    """A model, weights or data named on the command line cannot be loaded."""


class StorageError(FxpruneError):
    """A model cannot be saved, or a file is not one that fxprune wrote: damaged, tampered with,
    newer, or made for another model.
    """
