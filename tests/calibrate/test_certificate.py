"""The study of the bound's coverage, in short: it holds where it is promised, and not elsewhere."""

import pytest

from benchmarks.examination.certifying import LOADERS, Row, run
from benchmarks.examination.cluster_bounds import compared


@pytest.mark.parametrize("loader", LOADERS)
def test_the_bound_holds_from_every_loader(loader: str) -> None:
    assert run(Row(loader, 100, 0.9), runs=15).sound


def test_scenes_need_groups() -> None:
    scenes = "DataLoader, shuffle=True", 400, 0.9, 20, 0.5
    assert run(Row(*scenes, grouped=True), runs=15).held == 15
    assert run(Row(*scenes), runs=5).held == 0


def test_bounds_that_estimate_a_design_effect_fail() -> None:
    found = compared(20, 50, 0.5, runs=200)
    assert {name for name, bound in found.items() if bound.sound} == {"over groups"}
