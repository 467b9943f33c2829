"""Where faults are planted: what decides which channels go together, what rewrites and folds, and
what the certificate rests on.
"""

from fnmatch import fnmatchcase

AREAS: dict[str, tuple[str, ...]] = {
    "labels": (
        "fxprune/rules/*.py",
        "fxprune/label/analysis.py",
        "fxprune/label/blocks.py",
        "fxprune/label/coupling.py",
        "fxprune/label/groups.py",
        "fxprune/label/keep.py",
        "fxprune/label/propagation.py",
    ),
    "rewriting": (
        "fxprune/label/arguments.py",
        "fxprune/label/checker.py",
        "fxprune/label/survivors.py",
        "fxprune/label/trial.py",
        "passes/contract.py",
        "passes/facts.py",
        "passes/factorize.py",
        "passes/reduce_channels.py",
    ),
    "folding": (
        "fxprune/capture/fold_constants.py",
        "fxprune/fit/build.py",
        "fxprune/fit/fold.py",
        "fxprune/fit/reduction.py",
        "fxprune/fit/rows.py",
        "fxprune/graph/convolution.py",
        "fxprune/graph/recurrent.py",
        "fxprune/linalg/interpolation.py",
    ),
    "lifting": (
        "passes/layers.py",
        "passes/lift.py",
        "passes/recurrent.py",
        "fxprune/handover/masked.py",
    ),
    "capture": (
        "fxprune/capture/canonical.py",
        "fxprune/capture/constants.py",
        "fxprune/capture/functional.py",
        "fxprune/capture/recurrent.py",
        "fxprune/capture/regions.py",
        "fxprune/graph/arguments.py",
    ),
    "certificate": (
        "fxprune/calibrate/fingerprint.py",
        "fxprune/calibrate/groups.py",
        "fxprune/calibrate/soundness.py",
        "fxprune/calibrate/split.py",
        "fxprune/calibrate/strata.py",
        "fxprune/linalg/clopper_pearson.py",
        "fxprune/plans/budget.py",
        "fxprune/verify/*.py",
    ),
}
"""By name the files of each area, from the root of the repository."""


def area_of(path: str) -> str | None:
    """The area that a file belongs to, or None."""
    for name, patterns in AREAS.items():
        if any(fnmatchcase(path, pattern) for pattern in patterns):
            return name
    return None
