"""The bar on a terminal: one for all stations of a call, with the time that is left."""

import io
import logging
import re
import sys
from collections.abc import Callable
from functools import cache

import pytest
import torch
from rich.console import Console
from torch import nn

import fxprune
from fxprune import Plan
from fxprune import bar as bars
from fxprune.bar import NEARLY, clock
from fxprune.forecast import ExpectedCost, Stage
from fxprune.progress import Journal
from fxprune.time_left import Run, TimeLeft
from tests.nets import images, loader, tiny


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the bars are drawn on."""
    screen = io.StringIO()

    def console(stderr: bool) -> Console:
        return Console(file=screen, force_terminal=True, width=80)

    monkeypatch.setattr(bars, "Console", console)
    return screen


def screen_of(terminal: io.StringIO) -> list[str]:
    """What was drawn, without colors."""
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def test_one_bar_for_all_stations(terminal: io.StringIO) -> None:
    with Journal(True) as journal:
        (bar,) = journal._bar
        with journal.station("capture"):
            bar.refresh()
        journal.foresee(ExpectedCost([Stage("verify", {"fit": [60.0], "verify": [60.0]})], 1.0))
        journal.about = "FLOPs 0.5: "
        with journal.station("fit", 4) as advance:
            advance(1)
            bar.refresh()
            with journal.station("calibrate", 2):
                bar.refresh()
            assert len(bar.tasks) == 1
        bar.refresh()
    drawn = screen_of(terminal)
    assert all(len(line) <= 80 for line in drawn)
    first = next(line for line in drawn if line.startswith("capture"))
    assert "left" not in first
    pattern = r"FLOPs 0.5: fit 25% +\S+ 0:00, about [01]:\d\d left$"
    assert any(re.match(pattern, line) for line in drawn)
    assert any(line.startswith("FLOPs 0.5: calibrate 0% ") for line in drawn)
    # Between two stations the name of the last one stays.
    assert drawn[-1].startswith("FLOPs 0.5: calibrate ")


def test_a_bar_never_goes_back_or_claims_the_end(terminal: io.StringIO) -> None:
    with Journal(True) as journal:
        (bar,) = journal._bar
        shown = []
        for seconds in (0.0, 0.001, 100.0, 0.0):
            journal.foresee(ExpectedCost([Stage("fit", {"fit": [seconds]})], 1.0))
            journal._time._said = None
            bar.refresh()
            shown.append(bar.tasks[0].completed)
            assert "about 0:00 left" not in bar.tasks[0].fields["times"]
    assert shown == sorted(shown)
    assert shown[-1] <= NEARLY < bar.tasks[0].total  # type: ignore[operator]


def test_hours_are_told_as_clocks_do() -> None:
    assert [clock(s) for s in (0.4, 59.6, 3599, 3600, 36061)] == [
        *("0:00", "1:00", "59:59", "1:00:00", "10:01:01"),
    ]


def test_a_failing_station_leaves_the_terminal_free(terminal: io.StringIO) -> None:
    with pytest.raises(KeyError), Journal(True) as journal, journal.station("fit", 3):
        raise KeyError
    assert journal._time.now is None
    assert "FileProxy" not in type(sys.stderr).__name__
    with Journal(True) as journal, journal.station("fit", 3) as advance:
        advance(3)


@pytest.mark.parametrize("wanted", [True, False])
def test_silent_where_not_wanted_or_no_terminal(
    wanted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with Journal(wanted) as journal, journal.station("fit", 3) as advance:
        advance(1)
        assert not journal._bar
    assert capsys.readouterr() == ("", "")


def test_no_time_is_said_that_is_too_short(terminal: io.StringIO) -> None:
    with Journal(True) as journal:
        journal.foresee(ExpectedCost([Stage("fit", {"fit": [9.0]})], 1.0, whole=False))
        assert journal._time.left is None


def test_lines_on_a_terminal_stand_in_for_the_bar(
    terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = logging.StreamHandler(io.StringIO())
    log = logging.getLogger("fxprune")
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    with Journal(True) as journal:
        assert journal._bar
    monkeypatch.setattr(handler.stream, "isatty", lambda: True)
    with Journal(True) as journal, journal.station("fit"):
        assert not journal._bar
    log.removeHandler(handler)
    log.setLevel(before)
    assert "fit took" in handler.stream.getvalue()


def test_only_the_first_of_several_shows_it(terminal: io.StringIO) -> None:
    with Journal(True, speaks=False) as journal:
        assert not journal._bar
    assert not terminal.getvalue()


def everything(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float | None]]:
    """The stations of the calls from here on, each with the time left when it begins."""
    seen, enter = list[tuple[str, float | None]](), TimeLeft.enter

    def entered(left: TimeLeft, station: str, steps: float | None = None) -> Run:
        seen.append((station, left.left))
        return enter(left, station, steps)

    monkeypatch.setattr(TimeLeft, "enter", entered)
    return seen


@cache
def planned() -> Plan:
    return fxprune.plan(tiny(), loader(), flops=0.6, method="uniform", decision="argmax")


def factorize() -> None:
    fxprune.factorize(wide(), images(200).flatten(1)[:, :32], flops=0.5, decision="close")


CALLS: dict[str, Callable[[], object]] = {
    "compress, certified": lambda: fxprune.compress(
        tiny(), loader(), agreement=0.5, method="magnitude", decision="argmax"
    ),
    "compress": lambda: fxprune.compress(tiny(), loader(), flops=0.6, decision="argmax"),
    "factorize": factorize,
    "sweep": lambda: fxprune.sweep(
        tiny(), loader(), budgets=(0.7, 0.6), method="uniform", decision="argmax"
    ),
    "plan": lambda: fxprune.plan(tiny(), loader(), flops=0.6, method="channels", decision="argmax"),
    "apply": lambda: fxprune.apply(tiny(), planned(), loader(), decision="argmax"),
}


def wide() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8)).eval()


@pytest.mark.parametrize("verb", CALLS)
def test_a_call_knows_its_time_once_it_is_captured(
    verb: str, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned()
    seen = everything(monkeypatch)
    CALLS[verb]()
    names = [name for name, _ in seen]
    assert names[:3] == ["read", "capture", "label"]
    assert all(left is None for _, left in seen[:3])
    told = [(name, left) for name, left in seen[3:] if name != "label"]
    assert len(told) > 2
    assert all(left is not None and left >= 0 for _, left in told)
    first, last = told[0][1], told[-1][1]
    assert (first or 0) > (last or 0)
    how = "at most" if verb == "compress, certified" else "about"
    assert re.search(rf"{how} \d:\d\d left$", screen_of(terminal)[-1])
