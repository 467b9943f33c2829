"""The picture of a sweep: its curves, and the file."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from fxprune.errors import PlanError, UnsupportedError
from fxprune.handover.plot import plot
from fxprune.handover.report import attach
from fxprune.plans.plan import Plan
from tests.handover.test_report import example


def compressed(flops: float, rate: float | None) -> nn.Module:
    """A module that carries a report of these figures."""
    module, result = nn.Identity(), example()
    module.meta = {}  # type: ignore[assignment]
    assert result.agreement is not None
    agreement = None if rate is None else replace(result.agreement, rate=rate)
    attach(module, replace(result, flops=(100.0, flops), agreement=agreement), Plan({}, {}, {}))
    return module


def points(axes: Any) -> list[list[tuple[Any, Any]]]:
    return [[(float(x), float(y)) for x, y in line.get_xydata()] for line in axes.get_lines()]


def test_a_curve_in_order_of_the_flops(tmp_path: Path) -> None:
    curve = {0.9: compressed(80, 0.995), 0.5: compressed(40, 0.97), 0.7: compressed(60, None)}
    figure = plot(curve, tmp_path / "curve.svg")
    left, right = figure.axes
    assert points(left) == [[(40, pytest.approx(97)), (80, pytest.approx(99.5))]]
    assert points(right) == [[(40, 0.001), (80, 0.001)]]
    assert left.get_legend() is None
    assert (tmp_path / "curve.svg").read_text().lstrip().startswith("<?xml")


def test_several_curves_have_a_legend() -> None:
    figure = plot({"auto": {0.5: compressed(40, 0.97)}, "paper": {0.5: compressed(50, 0.9)}})
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["auto", "paper"]
    assert len(points(figure.axes[1])) == 2


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UnsupportedError, match=r"fxprune\[plot\]"):
        plot({0.5: compressed(40, 0.97)})


def test_a_model_from_elsewhere_is_refused() -> None:
    with pytest.raises(PlanError, match="carries no fxprune report"):
        plot({0.5: nn.Identity()})
