"""Bars on a terminal: one live display, also where a station runs inside another."""

import io
import logging
import re
from collections.abc import Iterator

import pytest
from rich.console import Console
from rich.progress import Progress as Bars

import fxprune
from fxprune.progress import Journal, Progress
from tests.cli.test_app import LOADER, TINY, call
from tests.nets import loader, tiny


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the bars are drawn on."""
    screen = io.StringIO()

    def console(stderr: bool) -> Console:
        return Console(file=screen, force_terminal=True, width=80)

    monkeypatch.setattr("rich.console.Console", console)
    return screen


def test_a_station_inside_another_shares_its_display(
    terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    displays: list[Bars] = []

    class Counted(Bars):
        def start(self) -> None:
            displays.append(self)
            super().start()

    monkeypatch.setattr("rich.progress.Progress", Counted)
    bars = Progress(True)
    with bars.task("fit", 3) as advance:
        advance(1)
        with bars.task("calibrate", 2) as inner:
            inner(2)
            assert [(t.description, t.completed) for t in displays[0].tasks] == [
                ("fit", 1),
                ("calibrate", 2),
            ]
        assert [t.description for t in displays[0].tasks] == ["fit"]
    with bars.task("verify", None):
        pass
    assert len(displays) == 2
    assert "calibrate" in terminal.getvalue()


def test_a_failing_station_leaves_the_terminal_free(terminal: io.StringIO) -> None:
    bars = Progress(True)
    with pytest.raises(KeyError), bars.task("fit", 3), bars.task("calibrate", 2):
        raise KeyError
    with bars.task("fit", 3) as advance:
        advance(3)


@pytest.mark.parametrize("wanted", [True, False])
def test_silent_where_not_wanted_or_no_terminal(
    wanted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(wanted).task("fit", 3) as advance:
        advance(1)
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What the logger `fxprune` says."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert (record.name, record.levelno) == ("fxprune", logging.INFO)
            said.append(record.getMessage())

    log, handler, level = logging.getLogger("fxprune"), Keep(), logging.getLogger("fxprune").level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield said
    log.removeHandler(handler)
    log.setLevel(level)


def test_a_line_per_station_and_decision(lines: list[str]) -> None:
    small = fxprune.compress(tiny(), loader(), flops=0.6, method="uniform", decision="argmax")
    result = fxprune.report(small)
    stations = [line.split(" took ")[0] for line in lines if re.search(r" took \d+\.\d\d s$", line)]
    assert set(stations) == set(result.seconds)
    assert stations[:2] == ["capture", "label"]
    decided = [line for line in lines if " took " not in line]
    assert "128 calibration examples: 103 fit, 25 are held out" in decided
    assert any(line.startswith("3 channel groups; ") for line in decided)
    assert any(line.startswith("decision: largest class") for line in decided)
    assert any(
        re.match(r"uniform within flops=0.6: 3 of 3 groups lose channels, 0 layers", line)
        for line in decided
    )
    assert result.agreement is not None
    assert any(f"on {100 * result.agreement.rate:.2f} % of 25 held-out" in line for line in decided)
    for note in result.notes:
        assert note in decided


def test_every_size_that_is_certified_has_its_lines(lines: list[str]) -> None:
    fxprune.compress(tiny(), loader(), agreement=0.5, method="magnitude", decision="argmax")
    plans = [line for line in lines if "within flops=" in line]
    assert plans[0].startswith("magnitude within flops=1: 0 of 3")
    agreements = [line for line in lines if line.startswith("the same decision on ")]
    assert len(agreements) == len(plans) > 1


def test_a_note_is_said_once(lines: list[str]) -> None:
    journal = Journal(False)
    journal.note("100 % of it")
    journal.note("100 % of it")
    assert journal.notes == lines == ["100 % of it"]


def test_the_library_is_silent_where_nobody_listens(capfd: pytest.CaptureFixture[str]) -> None:
    held = logging.getLogger("fxprune").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in held)
    fxprune.compress(
        tiny(), loader(), flops=0.6, method="magnitude", agreement=None, decision="argmax"
    )
    assert "took" not in "".join(capfd.readouterr())


def test_the_command_line_shows_the_lines_where_it_is_asked_to() -> None:
    words = ("compress", TINY, "--data", LOADER, "--flops", "0.6", "--method", "magnitude")
    loud = call("-v", *words, "--decision", "argmax", "--json")
    assert loud.exit_code == 0
    assert re.search(r"^\d\d:\d\d:\d\d capture took", loud.stderr, re.MULTILINE)
    assert loud.stdout.startswith("{")
    assert "took" not in call(*words, "--decision", "argmax", "--json").stderr
