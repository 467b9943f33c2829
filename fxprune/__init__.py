"""fxprune: make trained PyTorch models smaller and faster without changing what they decide.

>>> small = fxprune.compress(model, calib_loader, flops=0.5)  # doctest: +SKIP
>>> print(fxprune.report(small))  # doctest: +SKIP
"""

from fxprune import decisions
from fxprune.api import analyze, apply, compress, factorize, plan, recover, sweep
from fxprune.distributed.together import alone
from fxprune.drawing.plot import plot
from fxprune.errors import (
    BudgetError,
    CalibrationError,
    CalibrationWarning,
    CaptureError,
    DistributedError,
    FxpruneError,
    PlanError,
    StorageError,
    UnsupportedError,
)
from fxprune.handover.masked import masked
from fxprune.handover.report import Report, plan_of, report
from fxprune.label.groups import Analysis, ChannelGroup
from fxprune.plans.plan import Plan
from fxprune.recovery.training import Training
from fxprune.rules import register_rule
from fxprune.saving.storage import load, save
from fxprune.saving.to_hf import to_hf
from fxprune.timing.benchmark import Benchmark, Timing, benchmark
from fxprune.timing.workload import Workload
from fxprune.verify.agreement import Agreement, OutputAgreement

__version__ = "0.1.0"

__all__ = [
    "Agreement",
    "Analysis",
    "Benchmark",
    "BudgetError",
    "CalibrationError",
    "CalibrationWarning",
    "CaptureError",
    "ChannelGroup",
    "DistributedError",
    "FxpruneError",
    "OutputAgreement",
    "Plan",
    "PlanError",
    "Report",
    "StorageError",
    "Timing",
    "Training",
    "UnsupportedError",
    "Workload",
    "alone",
    "analyze",
    "apply",
    "benchmark",
    "compress",
    "decisions",
    "factorize",
    "load",
    "masked",
    "plan",
    "plan_of",
    "plot",
    "recover",
    "register_rule",
    "report",
    "save",
    "sweep",
    "to_hf",
]
