"""A report in ten lines, and its tables on a screen of 80 columns and 60 lines."""

from dataclasses import replace

import pytest

from fxprune.handover.report import Report
from fxprune.handover.rows import AloneRow, GroupRow
from tests.handover.test_report import example, judged

SUMMARY = """
fxprune auto
asked      flops=0.5, method=auto
got        50.0% of the FLOPs: 1.0 M of 2.0 M
           75.0% of the parameters: 3.0 k of 4.0 k; bytes: 12.0 k of 16.0 k
decision   largest class (argmax)
agreement  the same decision on 99.50% of 200 held-out examples
bound      at least 99.00%, with 95 % confidence (Clopper-Pearson)
error      1.0e-03 of the output, squared and relative; 2.6e-01 predicted
took       1.8 s, most of it to fit (1.2 s); 123 MB at peak
next       fxprune.save(small, path), fxprune.benchmark(small, model, example)
"""


def test_ten_lines() -> None:
    assert judged().summary() == SUMMARY.strip()


@pytest.mark.parametrize(
    ("made", "advice"),
    [
        (replace(example(), agreement=None), "give more calibration examples"),
        (judged(rate=0.9), "larger flops="),
        (judged(rate=1.0, bound=0.97), "more examples tighten the bound"),
        (replace(judged(), notes=("Say when two outputs are the same decision: x",)), "decision="),
        (judged(rate=1.0, bound=0.999), "fxprune.save"),
    ],
    ids=["unknown", "low", "few", "doubtful", "good"],
)
def test_what_to_do_next(made: Report, advice: str) -> None:
    lines = made.summary().splitlines()
    assert len(lines) == 10
    assert max(map(len, lines)) <= 80
    assert lines[-1].startswith("next")
    assert advice in lines[-1]


def test_what_is_wider_than_a_terminal_goes_on_below() -> None:
    asked = {"flops": "0.5", "ignore": str([f"features.{i}.*" for i in range(12)])}
    lines = replace(judged(), asked=asked).summary().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("asked      flops=0.5, ignore=[")
    assert lines[2].startswith("           'features.")


def deep(layers: int) -> Report:
    """Of a transformer, as its analysis lists it."""
    block = "bert.encoder.layer.{}."
    groups = [
        GroupRow(f"{block.format(i)}{name}", (), 768, 768 - 64 * (i % 3), 1e-4, 1e-3)
        for i in range(layers)
        for name in ("attention.self.query", "attention.self.value", "intermediate.dense")
    ]
    alone = [
        AloneRow(f"{block.format(i)}{name}", 768, f"{why} ({block.format(i)}{place}: {call}_{i})")
        for i in range(layers)
        for why, place, call, names in (
            ("reads channels that stay", "attention.self.key", "linear", ("weight[1]",)),
            ("normalized across channels", "output.LayerNorm", "layer_norm", ("weight[0]", "b[0]")),
            ("no rule for aten.odd.default", "attention.output.dense", "odd", ("weight[1]",)),
        )
        for name in (f"{place}.{axis}" for axis in names)
    ]
    return replace(judged(), groups=tuple(groups), alone=tuple(alone))


@pytest.mark.parametrize("layers", [1, 12, 48])
def test_a_deep_model_fits_on_a_screen(layers: int) -> None:
    found = deep(layers)
    lines = str(found).splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 80
    assert "bert.encoder.layer." in str(found)
    if layers > 1:
        assert "bert.encoder.layer.*." in str(found)
    assert len(Report.from_json(found.to_json()).groups) == 3 * layers, "JSON has every row"


def test_names_are_broken_at_dots_alone() -> None:
    cells = [line.strip("│ ").split("│")[0].strip() for line in str(deep(12)).splitlines()]
    names = [row.name for row in deep(12).groups] + [row.name for row in deep(12).alone]
    pieces = {part for name in names for part in name.split(".")}
    for cell in cells:
        if cell.startswith("bert."):
            assert cell.endswith(".") or cell.split(".")[-1] in pieces, cell


def test_names_that_have_nothing_in_common_are_counted() -> None:
    words = [f"{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(300)]
    found = replace(
        judged(),
        groups=tuple(GroupRow(word, (), 8, 4, 0.0) for word in words),
        alone=tuple(AloneRow(word, 8, f"for its {word}") for word in words),
    )
    lines = str(found).splitlines()
    assert len(lines) <= 60
    assert any("others" in line and "reasons" in line for line in lines)
