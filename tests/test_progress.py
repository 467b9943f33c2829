"""Bars on a terminal: one live display, also where a station runs inside another."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress as Bars

from fxprune.progress import Progress


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
