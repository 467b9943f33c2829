"""The lines of the log, for runs without a terminal."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import fxprune
from fxprune.progress import Journal
from tests.cli.test_app import LOADER, TINY, call
from tests.nets import loader, tiny
from tests.test_bar import CALLS


@contextmanager
def heard(least: int) -> Iterator[list[tuple[int, str]]]:
    """What the logger `fxprune` says, from a level on."""
    said = list[tuple[int, str]]()

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert record.name == "fxprune"
            said.append((record.levelno, record.getMessage()))

    log, handler, level = logging.getLogger("fxprune"), Keep(), logging.getLogger("fxprune").level
    log.addHandler(handler)
    log.setLevel(least)
    yield said
    log.removeHandler(handler)
    log.setLevel(level)


@pytest.fixture
def lines() -> Iterator[Callable[[], list[str]]]:
    """The lines for runs without a terminal, so far."""
    with heard(logging.INFO) as said:
        yield lambda: [text for _, text in said]


def test_a_line_per_station_and_decision(lines: Callable[[], list[str]]) -> None:
    small = fxprune.compress(tiny(), loader(), flops=0.6, method="uniform", decision="argmax")
    result = fxprune.report(small)
    stations = [
        line.split(" took ")[0] for line in lines() if re.search(r" took \d+\.\d\d s$", line)
    ]
    assert set(stations) == set(result.seconds)
    assert stations[:2] == ["capture", "label"]
    decided = [line for line in lines() if " took " not in line]
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


def test_a_line_per_trial(lines: Callable[[], list[str]]) -> None:
    fxprune.plan(tiny(), loader(), flops=0.6, decision="argmax", effort=2, progress=False)
    told = [line for line in lines() if line.startswith("tried ")]
    assert len(told) >= 2
    shape = (
        r"tried \d of 3 groups narrower and \d layers as two: error \S+ on validation examples, "
    )
    assert all(re.fullmatch(shape + r"\d\.\de[-+]\d\d predicted", line) for line in told)


@pytest.mark.parametrize("verb", ["plan", "factorize", "sweep"])
def test_what_every_verb_decides_is_logged(verb: str, lines: Callable[[], list[str]]) -> None:
    CALLS[verb]()
    assert any(" calibration examples: " in line for line in lines())
    plans = [line for line in lines() if re.search(r" within (flops|params)=\d", line)]
    assert len(plans) == (2 if verb == "sweep" else 1)


def test_widths_and_ranks_are_told_where_details_are_asked_for() -> None:
    with heard(logging.DEBUG) as said:
        plan = fxprune.plan(
            tiny(), loader(), flops=0.6, method="uniform", decision="argmax", progress=False
        )
    told = [text for level, text in said if level == logging.DEBUG]
    assert len(told) == len(plan.widths)
    for name, width in plan.widths.items():
        assert any(line.startswith(f"{name} keeps {width} of ") for line in told)


def test_of_several_processes_one_speaks() -> None:
    with heard(logging.DEBUG) as said:
        silent = Journal(False, speaks=False)
        silent.note("a note")
        silent.decide("a decision")
        silent.detail("a width")
        with silent.station("fit"):
            pass
    assert not said
    assert silent.notes == ["a note"]
    assert set(silent.seconds) == {"fit"}


def test_every_size_that_is_certified_has_its_lines(lines: Callable[[], list[str]]) -> None:
    fxprune.compress(tiny(), loader(), agreement=0.5, method="magnitude", decision="argmax")
    plans = [line for line in lines() if "within flops=" in line]
    assert plans[0].startswith("magnitude within flops=1: 0 of 3")
    agreements = [line for line in lines() if line.startswith("the same decision on ")]
    assert len(agreements) == len(plans) > 1


def test_a_note_is_said_once(lines: Callable[[], list[str]]) -> None:
    journal = Journal(False)
    journal.note("100 % of it")
    journal.note("100 % of it")
    assert journal.notes == lines() == ["100 % of it"]


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
