"""fxprune: make trained PyTorch models smaller and faster without changing what they decide.

>>> small = fxprune.compress(model, calib_loader, flops=0.5)  # doctest: +SKIP
>>> print(fxprune.report(small))  # doctest: +SKIP
"""

from fxprune.analysis import Analysis, ChannelGroup
from fxprune.api import analyze, apply, compress, factorize, plan, sweep
from fxprune.benchmark import Benchmark, Timing, benchmark
from fxprune.errors import (
    BudgetError,
    CalibrationError,
    CalibrationWarning,
    CaptureError,
    FxpruneError,
    PlanError,
    StorageError,
    UnsupportedError,
)
from fxprune.masked import masked
from fxprune.measure import Workload
from fxprune.plan import Plan
from fxprune.plot import plot
from fxprune.report import Report, plan_of, report
from fxprune.rules import register_rule
from fxprune.storage import load, save
from fxprune.verify import Agreement

__version__ = "0.1.0"

__all__ = [
    "Agreement", "Analysis", "Benchmark", "BudgetError", "CalibrationError", "CalibrationWarning", "CaptureError", "ChannelGroup", "FxpruneError",
    "Plan", "PlanError", "Report", "StorageError", "Timing", "UnsupportedError", "Workload", "analyze", "apply", "benchmark", "compress",
    "factorize", "load", "masked", "plan", "plan_of", "plot", "register_rule", "report", "save", "sweep",
]  # fmt: skip
