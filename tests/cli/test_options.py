"""The text of options, parsed; and every bad input on the command line is one line."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fxprune
from fxprune.cli.calibration import Source, traced_on
from fxprune.cli.parsing import (
    parse_decision,
    parse_device,
    parse_dtype,
    parse_keep,
    parse_multiple,
    parse_numbers,
)
from fxprune.cli.sources import Cast
from fxprune.errors import SourceError
from fxprune.handover.report import attach
from tests.cli.test_app import LOADER, TINY, bad
from tests.nets import images, loader, tiny
from tests.pretended import PRETENDED, pretended


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
    zeros = Source(model=TINY, shape="3,8,8").example(tiny())
    assert torch.equal(zeros, torch.zeros(2, 3, 8, 8))
    first = Source(model=TINY, data=LOADER).example(tiny())
    assert torch.equal(first.args[0], images(128)[:2])
    both = Source(model=TINY, shape="4", data=LOADER)
    assert both.example(tiny()).shape == (2, 4), "the shape goes first"


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
        (
            ("compress", TINY, "--data", LOADER, "--decision", "largest"),
            "one of argmax, next_token",
        ),
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


def test_least_shares() -> None:
    assert parse_keep(None) is None
    assert parse_keep(["layer4.*=0.8", "head = 1"]) == {"layer4.*": 0.8, "head": 1.0}
    for text in ("layer4", "=0.8", "layer4=much"):
        with pytest.raises(SourceError, match="is not NAME=SHARE"):
            parse_keep([text])


def test_devices_and_precisions() -> None:
    assert parse_device(None) is None
    assert parse_dtype(None) is None
    assert parse_device("cpu") == torch.device("cpu")
    assert parse_dtype("bfloat16") is torch.bfloat16
    for text in ("abacus", "meta", "cpu:x"):
        with pytest.raises(SourceError, match="no device that works here"):
            parse_device(text)
    with pytest.raises(SourceError, match="not one of bfloat16, float16, float32, float64"):
        parse_dtype("int8")


def test_a_model_stays_while_the_work_is_done_elsewhere() -> None:
    assert Source(model=TINY, device="cpu").work is None
    assert Source(model=TINY, device="cpu", offload=True).work == torch.device("cpu")
    with pytest.raises(SourceError, match="--offload needs a --device"):
        Source(model=TINY, offload=True)
    with pretended():
        net = Source(model=TINY, device=str(PRETENDED), offload=True).place(tiny())
        assert net.get_parameter("first.weight").device == torch.device("cpu")
    with pytest.raises(SourceError, match="no device that works here"):
        Source(model=TINY, device="abacus", offload=True).place(tiny())


def test_tensors_are_moved_and_floating_ones_cast() -> None:
    source = Source(model=TINY, shape="3,8,8", dtype="float64", device="cpu")
    assert source.example(tiny()).dtype is torch.float64
    assert source.place(tiny()).get_parameter("first.weight").dtype is torch.float64
    moved = Cast([{"ids": torch.zeros(2, dtype=torch.int64)}], torch.float64)
    assert [item["ids"].dtype for item in moved] == [torch.int64]
    assert [tuple(item.shape) for item in Cast(images(3), torch.float64)] == [(3, 3, 8, 8)]


def test_a_compressed_model_knows_what_it_takes() -> None:
    small = fxprune.compress(tiny(), loader(), flops=0.6, method="magnitude", decision="argmax")
    batch = Source(model=TINY).example(small)
    assert [tuple(t.shape) for t in batch.tensors()] == [(2, 3, 8, 8)]
    with pytest.raises(SourceError, match="--shape"):
        Source(model=TINY).example(tiny())
    result = fxprune.report(small)
    row = replace(result.inputs[0], dtype="Tensor")
    attach(small, replace(result, inputs=(row,)), fxprune.plan_of(small))
    assert traced_on(small) is None, "no type of numbers"
