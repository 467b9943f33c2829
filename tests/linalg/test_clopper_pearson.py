"""The bound against SciPy's exact binomial test."""

import pytest
import scipy.stats

from fxprune.linalg.clopper_pearson import interval, lower_bound, sample_size


@pytest.mark.parametrize(
    ("agreeing", "examples"), [(0, 10), (1, 10), (97, 100), (100, 100), (4871, 5000)]
)
def test_bound_is_clopper_pearson(agreeing: int, examples: int) -> None:
    exact = (
        scipy.stats.binomtest(agreeing, examples, alternative="greater")
        .proportion_ci(0.95, method="exact")
        .low
    )
    assert lower_bound(agreeing, examples) == pytest.approx(exact, abs=1e-12)


def test_groups_of_equal_size_count_as_many_examples() -> None:
    assert lower_bound(950, 1000, independent=20) == pytest.approx(lower_bound(19, 20))
    assert lower_bound(1000, 1000, independent=20) == pytest.approx(0.05 ** (1 / 20))
    assert lower_bound(95, 100, independent=100) == lower_bound(95, 100)
    assert lower_bound(95, 100, independent=1e9) == lower_bound(95, 100)


@pytest.mark.parametrize(
    ("agreeing", "examples"), [(0, 10), (1, 10), (97, 100), (100, 100), (4871, 5000)]
)
def test_interval_is_two_sided(agreeing: int, examples: int) -> None:
    exact = scipy.stats.binomtest(agreeing, examples).proportion_ci(0.95, method="exact")
    assert interval(agreeing, examples) == pytest.approx((exact.low, exact.high), abs=1e-12)
    low, high = interval(agreeing, examples, independent=examples / 2)
    assert low <= exact.low + 1e-12
    assert high >= exact.high - 1e-12


@pytest.mark.parametrize(("rate", "bound"), [(1.0, 0.99), (0.995, 0.99), (0.85, 0.8), (0.98, 0.5)])
def test_so_many_examples_reach_a_bound(rate: float, bound: float) -> None:
    found = sample_size(rate, bound)
    assert found is not None
    assert lower_bound(int(rate * found + 1e-9), found) >= bound
    fewer = found * 9 // 10
    assert lower_bound(int(rate * fewer + 1e-9), fewer) < bound


def test_no_number_of_examples_reaches_what_the_rate_is_not_above() -> None:
    assert sample_size(0.9, 0.9) is None
    assert sample_size(1.0, 0.99) == 299
