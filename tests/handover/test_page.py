"""The page for a browser: whole on its own, with nothing of a name or note taken for markup."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fxprune.errors import StorageError
from fxprune.handover.report import Report
from fxprune.handover.rows import AloneRow, GroupRow, Point
from fxprune.verify.by_class import Changed, ClassAgreement
from fxprune.verify.pictures import Picture
from tests.handover.test_report import example

VOID = {"meta", "img", "br", "wbr", "rect", "line", "circle", "polyline"}


class Outline(HTMLParser):
    """Tags in balance, the visible text, and every address that is referred to."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag not in ("wbr", "code", "span"):
            self.texts.append(" ")
        assert not any(name.startswith("on") for name, _ in attrs)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


def full() -> Report:
    """Every section has something to show."""
    bare = example()
    assert bare.agreement is not None
    agreement = replace(
        bare.agreement,
        classes=(ClassAgreement("7", 30, 0.9, 0.73, 0.98), ClassAgreement("8", 5, 1.0, 0.48, 1.0)),
        changed=(Changed(41, "7", "8", Picture(1, 2, 1, b"\x00\xff")), Changed(99, "", "wide")),
    )
    groups = (replace(bare.groups[0], measured=0.034), bare.groups[1])
    curve = (Point(0.5, 0.995, 0.99, 200, 0.001), Point(0.8, 1.0, 0.99, 200, 0.0))
    return replace(bare, agreement=agreement, groups=groups, curve=curve, asked={"flops": "0.5"})


def test_the_page_shows_everything_and_needs_nothing_else(tmp_path: Path) -> None:
    full().to_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    found = Outline(page)
    for wanted in (
        "asked flops=0.5",
        "1.0 M 50.0%",
        "50.0% 99.50% 99.00% 1.0e-03",
        "hidden 16 4 2.5e-01",
        "first 8 6 1.3e-02 3.4e-02",
        "7 90.0% 73.0 to 98.0 % 30",
        "example 41 7 → 8",
        "example 99 wide",
        "the model's output head.weight[0] 1 4",
        "fit 1.25",
        "layers stay whole.",
    ):
        assert wanted in found.text, wanted
    (picture,) = found.addresses
    assert picture.startswith("data:image/png;base64,")
    assert not re.search(r"url\(|@import|<script|<link", page)


def test_a_notebook_shows_the_same_without_a_page_around_it(tmp_path: Path) -> None:
    text = full()._repr_html_()
    assert "<html" not in text
    full().to_html(tmp_path / "report.html")
    assert (
        Outline((tmp_path / "report.html").read_text(encoding="utf-8")).text == Outline(text).text
    )
    outside = re.sub(r"@[^{]*\{|[{}]", "\n", text.partition("<style>")[2].partition("</style>")[0])
    selectors = [line for line in outside.splitlines() if line.startswith((".", "#"))]
    assert selectors
    assert all(line.startswith(".fxprune") for line in selectors)


HOSTILE = "<script>alert(1)</script>&\"'"


def test_names_and_notes_are_text() -> None:
    bare = full()
    assert bare.agreement is not None
    hostile = replace(
        bare,
        method=HOSTILE,
        notes=(HOSTILE,),
        seconds={HOSTILE: 1.0},
        asked={HOSTILE: HOSTILE},
        groups=(GroupRow(f"a.{HOSTILE}", (), 2, 1, 0.1),),
        alone=(AloneRow(HOSTILE, 1, HOSTILE),),
        agreement=replace(bare.agreement, decision=HOSTILE, changed=(Changed(1, HOSTILE, "b"),)),
    )
    text = hostile._repr_html_()
    assert "<script" not in text
    assert Outline(text).text.count("<script>alert(1)</script>") >= 7


def test_an_empty_report_has_a_page() -> None:
    empty = Report((0, 0), (0, 0), (0, 0), None, (), (), {}, 0, (), "uniform")
    text = Outline(empty._repr_html_()).text
    assert "not compared" in text
    for section in ("Layers", "Trade-off", "class", "Changed", "Left alone", "Time", "Notes"):
        assert section not in text


def test_errors_of_no_finite_size_have_no_place() -> None:
    rows = tuple(
        GroupRow(str(error), (), 2, 1, error, error) for error in (float("nan"), float("inf"), 0.0)
    )
    Outline(replace(full(), groups=rows)._repr_html_())


def test_a_page_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot be written to .*Name a file such as report"):
        full().to_html(tmp_path / "missing" / "report.html")
