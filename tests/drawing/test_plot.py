"""Pictures: what is drawn of a sweep and of a report, how it looks in notebooks, and the file."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib import rcParams
from matplotlib.figure import Figure
from torch import nn

import fxprune
from fxprune.drawing.plot import plot
from fxprune.drawing.style import COLORS, MARKERS
from fxprune.errors import PlanError, StorageError, UnsupportedError
from fxprune.handover.report import Report, attach
from fxprune.handover.rows import GroupRow
from fxprune.plans.plan import Plan
from tests.handover.test_report import example
from tests.nets import images, tiny
from tests.test_package import ROOT


def reported(flops: float, rate: float | None, error: float = 0.001) -> Report:
    result = example()
    assert result.agreement is not None
    agreement = None
    if rate is not None:
        agreement = replace(result.agreement, rate=rate, bound=rate - 0.02, error=error)
    return replace(result, flops=(100.0, flops), agreement=agreement)


def compressed(flops: float, rate: float | None, error: float = 0.001) -> nn.Module:
    """A module that carries a report of these figures."""
    module = nn.Identity()
    module.meta = {}  # type: ignore[assignment]
    attach(module, reported(flops, rate, error), Plan({}, {}, {}))
    return module


def points(axes: Any) -> list[list[tuple[Any, Any]]]:
    return [[(float(x), float(y)) for x, y in line.get_xydata()] for line in axes.get_lines()]


def nothing(axes: Any) -> float:
    """Where the tick of nothing stands."""
    texts = [text.get_text() for text in axes.get_yticklabels()]
    return float(axes.get_yticks()[texts.index("0")])


def test_a_curve_in_order_of_the_flops(tmp_path: Path) -> None:
    curve = {0.9: compressed(80, 0.995), 0.5: compressed(40, 0.97), 0.7: compressed(60, None)}
    figure = plot(curve, tmp_path / "curve.svg")
    left, right = figure.axes
    drawn, original = points(left)
    assert drawn == [(40, pytest.approx(3)), (80, pytest.approx(0.5))]
    assert original == [(100, nothing(left))]
    assert points(right)[0] == [(40, 0.001), (80, 0.001)]
    assert left.get_yscale() == right.get_yscale() == "log"
    written = (tmp_path / "curve.svg").read_text()
    for text in ("3 %", "0.5 %", "original", "FLOPs kept, %", "% of 200 held-out examples"):
        assert f">{text}</text>" in written
    (intervals,) = [c for c in left.collections if hasattr(c, "get_segments")]
    ends = [[float(y) for _, y in segment] for segment in intervals.get_segments()]
    assert ends == [[pytest.approx(3), pytest.approx(5)], [pytest.approx(0.5), pytest.approx(2.5)]]


def test_no_changed_decision_has_a_place_on_the_logarithmic_axis() -> None:
    figure = plot({0.9: compressed(90, 1.0, 0.0), 0.5: compressed(50, 0.9, math.nan)})
    left, right = figure.axes
    zero = nothing(left)
    assert points(left)[0] == [(50, pytest.approx(10)), (90, zero)]
    assert zero < left.get_yticks()[1]
    (x, y), (_, at_zero) = points(right)[0]
    assert (x, math.isnan(y)) == (50, True)
    assert at_zero == nothing(right)


def test_several_curves_have_a_legend_and_differ_in_color_and_shape() -> None:
    figure = plot({"auto": {0.5: reported(40, 0.97)}, "paper": {0.5: reported(50, 0.9)}})
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["auto", "paper", "original"]
    lines = figure.axes[1].get_lines()[:2]
    assert [line.get_color() for line in lines] == list(COLORS[:2])
    assert [line.get_marker() for line in lines] == list(MARKERS[:2])
    assert len(set(COLORS)) == len(set(MARKERS)) == len(COLORS)


def test_a_report_shows_widths_and_errors_of_every_group(tmp_path: Path) -> None:
    rows = (
        GroupRow("first", (), 8, 6, 0.0125, 0.02),
        GroupRow("hidden", (), 16, 16, 0.0, None),
    )
    figure = plot(replace(reported(40, 0.97), groups=rows), tmp_path / "r.svg")
    left, right = figure.axes
    widths = [[bar.get_width() for bar in held] for held in left.containers]
    assert widths == [[8, 16], [6, 16]]
    assert points(right) == [[(0.0125, 0)], [(0.02, 0)]]
    written = (tmp_path / "r.svg").read_text()
    for text in ("first", "hidden", "8 → 6", "16", "before", "after", "measured (layer)"):
        assert f">{text}</text>" in written
    assert "40.0% of the FLOPs; the same decision on 97.00% of 200" in written


def test_many_groups_share_rows() -> None:
    rows = tuple(GroupRow(f"layers.{i}.fc", (), 64, 32 + i % 2, 0.001, 0.01) for i in range(200))
    figure = plot(replace(example(), groups=rows))
    (text,) = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert text == "200 x layers.*.fc"
    assert "64 → 32 to 33" in [note.get_text() for note in figure.axes[0].texts]
    assert points(figure.axes[1]) == [[(pytest.approx(0.2), 0)], [(0.01, 0)]]


def test_a_group_without_errors_is_drawn() -> None:
    figure = plot(replace(example(), groups=(GroupRow("a", (), 3, 3, 0.0, math.inf),)))
    assert points(figure.axes[1]) == [[], []]
    assert plot(replace(example(), groups=())).axes


def test_the_style_of_the_caller_comes_back() -> None:
    before = dict(rcParams)
    plot(compressed(40, 0.97))
    assert dict(rcParams) == before


def test_notebooks_show_it_without_pyplot() -> None:
    code = (
        "import sys, torch, fxprune; from tests.nets import tiny, images\n"
        "figure = fxprune.plot(fxprune.analyze(tiny(), images(2)))\n"
        "assert figure._repr_png_()[:4] == b'\\x89PNG'\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True)


def test_a_channel_graph_names_every_layer(tmp_path: Path) -> None:
    figure = plot(fxprune.analyze(tiny(), images(2)), tmp_path / "graph.svg")
    assert isinstance(figure, Figure)
    names = [text.get_text() for axes in figure.axes for text in axes.get_yticklabels()]
    assert names == ["first", "second", "hidden", "head"]
    written = (tmp_path / "graph.svg").read_text()
    for text in ("8", "16", "its 3 inputs stay", "its 4 outputs stay", "makes the channels"):
        assert f">{text}</text>" in written


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fxprune.drawing.picture", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UnsupportedError, match=r"fxprune\[plot\]"):
        plot({0.5: compressed(40, 0.97)})


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="carries no fxprune report"):
        plot({0.5: nn.Identity()})
    with pytest.raises(PlanError, match="carries no fxprune report"):
        plot(nn.Identity())
    for wrong in (3, [compressed(40, 0.97)], {"a": 3}):
        with pytest.raises(PlanError, match="plot draws what sweep"):
            plot(wrong)  # type: ignore[arg-type]
    with pytest.raises(StorageError, match=r"such as curve\.png"):
        plot(compressed(40, 0.97), tmp_path / "none" / "curve.png")
