"""The text of options, parsed; and every bad input on the command line is one line."""

from pathlib import Path

import pytest
import torch

from fxprune.cli.options import parse_decision, parse_multiple, parse_numbers, read_example
from fxprune.errors import SourceError
from tests.cli.test_app import LOADER, TINY, bad
from tests.nets import images, tiny


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("", ()), ("0.5", (0.5,)), ("0.5, 1,2e-1", (0.5, 1.0, 0.2)), ("1,,2,", (1.0, 2.0))],
)
def test_numbers(text: str, numbers: tuple[float, ...]) -> None:
    assert parse_numbers(text) == numbers


@pytest.mark.parametrize("text", ["a", "0.5;0.5", "1 2"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(SourceError, match="is not a comma-separated list of numbers"):
        parse_numbers(text)


def test_multiples() -> None:
    assert parse_multiple("") is None
    assert parse_multiple("auto") == "auto"
    assert parse_multiple("8") == 8
    for text in ("half", "8.0", "Auto"):
        with pytest.raises(SourceError, match="neither a whole number nor auto"):
            parse_multiple(text)


@pytest.mark.parametrize(
    ("texts", "decision"),
    [
        (None, None),
        ([], None),
        (["argmax"], "argmax"),
        (["close(tolerance=0.02)"], "close(tolerance=0.02)"),
        (
            ["logits=argmax", "box.0 = argmax(dim=2)", "aux=none"],
            {"logits": "argmax", "box.0": " argmax(dim=2)", "aux": None},
        ),
    ],
)
def test_decisions(texts: list[str] | None, decision: object) -> None:
    assert parse_decision(texts) == decision


@pytest.mark.parametrize("texts", [["argmax", "sign"], ["argmax", "a=sign"]])
def test_one_rule_and_rules_by_name_are_not_mixed(texts: list[str]) -> None:
    with pytest.raises(SourceError, match="one rule for all outputs"):
        parse_decision(texts)


def test_an_example_has_two_rows() -> None:
    zeros = read_example(tiny(), "3,8,8", "", 224, False)
    assert torch.equal(zeros, torch.zeros(2, 3, 8, 8))
    first = read_example(tiny(), "", LOADER, 224, False)
    assert torch.equal(first.args[0], images(128)[:2])
    assert read_example(tiny(), "4", LOADER, 224, False).shape == (2, 4), "the shape goes first"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("compress", TINY, "--data", LOADER, "--mean", "a"), "list of numbers"),
        (("compress", TINY, "--data", LOADER, "--std", "0.5,x"), "list of numbers"),
        (("compress", TINY, "--data", LOADER, "--flops", "0"), "flops=0.0"),
        (("compress", TINY, "--data", LOADER, "--params", "nan"), "params=nan"),
        (("compress", TINY, "--data", LOADER, "--agreement", "1"), "cannot be certified"),
        (("compress", TINY, "--data", LOADER, "--latency", "-1"), "latency=-1.0"),
        (("compress", TINY, "--data", LOADER, "--latency-batch", "0"), "batch=0"),
        (("compress", TINY, "--data", LOADER, "--round-to", "x"), "neither a whole number"),
        (("compress", TINY, "--data", LOADER, "--round-to", "0"), "round_to=0"),
        (("compress", TINY, "--data", LOADER, "--effort", "0"), "effort=0"),
        (("compress", TINY, "--data", LOADER, "--selector", "best"), "best"),
        (("compress", TINY, "--data", LOADER, "--decision", "largest"), "one of argmax, sign"),
        (
            ("compress", TINY, "--data", LOADER, "--agreement", "0.9", "--decision", "a=argmax"),
            "the output 'a'",
        ),
        (("compress", TINY, "--data", LOADER, "--agreement", "0.9"), "leave open what it decides"),
        (("compress", TINY, "--data", "tests.nets:not_there"), "no not_there"),
        (("compress", TINY, "--data", "x.npz"), "no file x.npz"),
        (("analyze", TINY, "--shape", "3,-8,8"), "list of sizes"),
        (("analyze", TINY, "--shape", "3,8,8", "--ignore", "nothing"), "matches no module"),
        (("analyze", TINY, "--shape", "5,8,8"), "fxprune: "),
        (("bench", Path("nowhere"), TINY, "--shape", "3,8,8"), "no such file"),
        (("report", Path("nowhere")), "no report nowhere"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[object, ...], words: str) -> None:
    assert words in bad(*arguments)


def test_a_report_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\x00")
    assert "is not a report" in bad("report", tmp_path)
