"""Budgets: what may be asked for, and what the error says."""

import pytest

from fxprune.errors import BudgetError
from fxprune.plans.budget import GOAL, Budget, make_budget


@pytest.mark.parametrize("name", ["flops", "params", "agreement", "latency"])
@pytest.mark.parametrize("value", [0, -0.5, 1.01, True, False, "0.5", float("nan"), float("inf")])
def test_a_fraction_is_above_0_and_at_most_1(name: str, value: object) -> None:
    with pytest.raises(BudgetError) as caught:
        Budget(**{name: value})  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"{name}={value!r}: a budget is the fraction of the original to keep, above 0 and at most "
        "1."
    )


def test_certainty_cannot_be_certified() -> None:
    with pytest.raises(BudgetError, match=r"^agreement=1 cannot be certified from a sample; ask"):
        Budget(agreement=1)
    assert Budget(agreement=0.999).agreement == 0.999


def test_limits_are_the_costs_asked_for() -> None:
    assert Budget(flops=1, latency=0.5, agreement=0.9).limits == {"flops": 1.0, "latency": 0.5}
    assert Budget(agreement=0.9).limits == {}


def test_without_a_budget_agreement_is_certified() -> None:
    assert make_budget(None, None, None) == Budget(agreement=GOAL)
    assert make_budget(None, None, None, 0.5) == Budget(latency=0.5)
    assert make_budget(0.5, 0.6, 0.9) == Budget(flops=0.5, params=0.6, agreement=0.9)
