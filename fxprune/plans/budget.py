"""What the caller asks for, as fractions of the original to keep."""

import math
from dataclasses import dataclass
from typing import Any

from fxprune.errors import BudgetError
from fxprune.plans.numbers import is_number, read_number

GOAL = 0.99
"""Agreement certified where the caller names no budget (docs/decisions/0004)."""

GROUPED = (
    "identical examples and those with one label of groups= count as one, and fewer where groups "
    "differ in size"
)
"""Why there are fewer groups than examples, for messages."""


@dataclass(frozen=True)
class Budget:
    """Fractions of the original to keep; None where not asked for.

    Attributes:
        flops, params, latency: upper limits, in (0, 1].
        agreement: lower limit of the certified agreement, in (0, 1).
    """

    flops: float | None = None
    params: float | None = None
    agreement: float | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        for name in ("flops", "params", "agreement", "latency"):
            value = read_number(getattr(self, name))
            object.__setattr__(self, name, value)
            if value is None:
                continue
            if not is_number(value) or not 0 < value <= 1:
                raise BudgetError(
                    f"{name}={value!r}: a budget is the fraction of the original to keep, above 0 "
                    "and at most 1."
                )
        if self.agreement is not None and self.agreement >= 1:
            raise BudgetError(
                "agreement=1 cannot be certified from a sample; ask for 0.99, or for flops=1.0 to "
                "remove only what is redundant."
            )

    @property
    def limits(self) -> dict[str, float]:
        """The cost limits asked for, by name."""
        limits = {"flops": self.flops, "params": self.params, "latency": self.latency}
        return {name: float(limit) for name, limit in limits.items() if limit is not None}

    def held_out(self, examples: int, kind: str = "example") -> int:
        """How many of so many calibration examples certify the result instead of fitting it.

        Args:
            examples: how many independent ones there are.
            kind: `example`, or `group` of examples that belong together.

        Raises:
            BudgetError: they are too few to certify the agreement asked for.
        """
        if self.agreement is None:
            return min(max(examples // 5, 1 if examples > 1 else 0), 1000)
        needed = math.ceil(math.log(0.05) / math.log(self.agreement))
        count = max(examples * 2 // 5, min(needed + 20, examples * 7 // 10))
        if count < needed:
            why = "" if kind == "example" else f" ({GROUPED})"
            raise BudgetError(
                f"agreement={self.agreement:g} needs {needed} held-out {kind}s without a single "
                f"disagreement; {examples} calibration {kind}s{why} leave {count}, which can "
                f"certify at most {0.05 ** (1 / max(count, 1)):.3f}. Give {needed * 10 // 7 + 1} "
                f"{kind}s or more, or ask for flops= or params= instead."
            )
        return count


def each_flops(fractions: Any) -> dict[float, Budget]:
    """A budget per fraction of the FLOPs, by the fraction.

    Raises:
        BudgetError: they are no list of fractions.
    """
    try:
        listed = list(fractions)
    except TypeError as error:
        raise BudgetError(
            f"budgets={fractions!r}: give a list of fractions of the FLOPs, such as (0.7, 0.5)."
        ) from error
    budgets = [Budget(flops=fraction) for fraction in listed]
    return {budget.flops: budget for budget in budgets if budget.flops is not None}


def make_budget(
    flops: float | None = None,
    params: float | None = None,
    agreement: float | None = None,
    latency: float | None = None,
) -> Budget:
    """The caller's budget; with none, agreement of `GOAL`."""
    if flops is None and params is None and agreement is None and latency is None:
        return Budget(agreement=GOAL)
    return Budget(flops, params, agreement, latency)
