"""The one table of methods: how each chooses, allocates, fits, and whether layers become two.

A new method is one entry here; what it needs that is not there yet is one file: a selector in
`fxprune.profile`, an allocation or a criterion of ranks in `fxprune.allocate`.
"""

from dataclasses import dataclass
from typing import Literal

from fxprune.errors import PlanError, UnsupportedError

AllocationName = Literal["search", "iterative", "uniform", "ranks"]
FitName = Literal["sequential", "one-shot", "none"]


@dataclass(frozen=True)
class Method:
    """One way to make a model smaller.

    Attributes:
        name: as callers write it.
        allocation: how much goes from which group; of `fxprune.allocate.allocation.ALLOCATIONS`.
        fit: what becomes of the remaining weights: every layer refitted to the original's outputs
            in turn (`sequential`), consumers of removed channels interpolated once from the
            original's activations (`one-shot`), or nothing (`none`).
        selector: which channels go first, of `fxprune.profile`; empty leaves it to the caller.
        ranks: by what criterion layers may become two; empty where they stay whole.
        redundancy: whether channels that the others rebuild exactly go at no cost.
        rotation: whether channel groups that meet no nonlinearity may be rotated first.
        streams: whether residual streams may be, beside these.
    """

    name: str
    allocation: AllocationName
    fit: FitName
    selector: str = ""
    ranks: str = ""
    redundancy: bool = True
    rotation: bool = False
    streams: bool = False

    @property
    def widths(self) -> bool:
        """Whether channels go; otherwise only ranks fall."""
        return self.allocation != "ranks"


_ENTRIES = (
    Method("auto", "search", "sequential", ranks="pca", rotation=True, streams=True),
    Method("channels", "search", "sequential", rotation=True, streams=True),
    Method("uniform", "uniform", "sequential"),
    Method("paper", "iterative", "one-shot", "pivoted-qr", redundancy=False),
    Method("paper-uniform", "uniform", "one-shot", "pivoted-qr", redundancy=False),
    Method("magnitude", "uniform", "none", "magnitude", redundancy=False),
    Method("pca", "ranks", "sequential", ranks="pca"),
    Method("svd", "ranks", "none", ranks="svd"),
    Method("learned-rank", "ranks", "none", ranks="learned-rank"),
    Method("alds", "ranks", "none", ranks="alds"),
)
METHODS = {method.name: method for method in _ENTRIES}
"""Every method by its name."""
WIDTH_METHODS = tuple(name for name, method in METHODS.items() if method.widths)
"""What `compress`, `plan` and `sweep` take."""
RANK_METHODS = tuple(name for name, method in METHODS.items() if not method.widths)
"""What `factorize` takes."""


def find_method(name: str, among: tuple[str, ...]) -> Method:
    """A method by its name.

    Raises:
        UnsupportedError: it is not one of those.
    """
    if not isinstance(name, str) or name not in among:
        raise UnsupportedError(f"method={name!r} is not one of {', '.join(among)}.")
    return METHODS[name]


def method_of_plan(name: str) -> Method:
    """The method that made a plan.

    Raises:
        PlanError: no such method is known.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise PlanError(
            f"The plan's method {name!r} is not one of {', '.join(METHODS)}, so how its model is "
            "to be fitted is not known. Make the plan anew with fxprune.plan(...)."
        )
    return METHODS[name]
