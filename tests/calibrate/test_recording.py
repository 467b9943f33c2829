"""How many observations a fit gets."""

import pytest

from fxprune.calibrate.recording import rows_per_example


@pytest.mark.parametrize(("features", "rows"), [(9, 1152), (48, 6144), (512, 6144), (1000, 12000)])
def test_observations_of_a_fit(features: int, rows: int) -> None:
    assert 50 * 2 * rows_per_example(features, calls=2, examples=50) == pytest.approx(rows)
