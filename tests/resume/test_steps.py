"""Steps in a folder: what is kept is found, by whom it is for alone."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fxprune.errors import StorageError
from fxprune.progress import Journal
from fxprune.resume.identity import differences, fingerprint, tell
from fxprune.resume.steps import MANIFEST, STEPS, Outcome, open_steps


def keep(folder: Path, **run: str) -> None:
    with open_steps(folder) as steps:
        steps.require(**run)
        steps.keep("first step", (1,), Outcome(3.5, ("a note",), {"fit": 1.0}))


def find(folder: Path, key: Any = (1,), **run: str) -> Outcome | None:
    with open_steps(folder) as steps:
        steps.require(**run)
        return steps.find("first step", key, float)


def test_a_step_is_found_by_its_run_and_key(tmp_path: Path) -> None:
    keep(tmp_path / "new" / "folder", flops="0.5")
    found = find(tmp_path / "new" / "folder", flops="0.5")
    assert found is not None
    assert (found.value, found.notes, found.seconds) == (3.5, ("a note",), {"fit": 1.0})
    assert find(tmp_path / "new" / "folder", (2,), flops="0.5") is None
    assert (
        find(tmp_path / "new" / "folder", flops="0.5", torch="2") is None
    )  # says more than it did
    with pytest.raises(StorageError, match=r"flops was 0\.5 and is 0\.6\. Name another folder"):
        find(tmp_path / "new" / "folder", flops="0.6")


def test_a_run_that_kept_nothing_binds_nobody(tmp_path: Path) -> None:
    assert find(tmp_path, flops="7") is None
    keep(tmp_path, flops="0.5")
    assert find(tmp_path, flops="0.5") is not None


def test_a_damaged_manifest_begins_anew_with_the_steps_of_the_same_run(tmp_path: Path) -> None:
    keep(tmp_path, flops="0.5")
    text = (tmp_path / MANIFEST).read_text()
    for damaged in (text[:-30], text.replace("0.5", "0.6"), ""):
        (tmp_path / MANIFEST).write_text(damaged)
        assert find(tmp_path, flops="0.5") is not None
        assert find(tmp_path, flops="0.6") is None


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    with (
        pytest.raises(StorageError, match=r"holds something else: thesis\.tex"),
        open_steps(tmp_path),
    ):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / MANIFEST).write_text(json.dumps({"name": "of another program"}))
    with pytest.raises(StorageError, match="is not of this version"), open_steps(tmp_path):
        pass
    with pytest.raises(StorageError, match="no folder"), open_steps(tmp_path / "thesis.tex"):
        pass
    for odd in ("", 3, b"x"):
        with pytest.raises(StorageError, match="no folder"), open_steps(odd):  # type: ignore[arg-type]
            pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process of its own is forked")
def test_a_folder_is_for_one_at_a_time(tmp_path: Path) -> None:
    with open_steps(tmp_path):
        with pytest.raises(StorageError, match="in use: another call"), open_steps(tmp_path):
            pass
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            from fxprune.resume import folder

            folder._held.clear()  # as in a process of its own
            try:
                with open_steps(tmp_path):
                    os.write(write, b"came in")
            except StorageError as error:
                os.write(write, str(error).encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert f"in use: process {os.getpid()} works there" in os.read(read, 999).decode()
    with open_steps(tmp_path):
        pass


def test_what_was_being_written_is_removed(tmp_path: Path) -> None:
    keep(tmp_path)
    for path in (tmp_path / ".fxprune-run.json.7.part", tmp_path / STEPS / ".x.safetensors.7.part"):
        path.write_bytes(b"half of")
    assert find(tmp_path) is not None
    assert not list(tmp_path.rglob("*.part"))


def test_steps_are_let_go_by_their_names(tmp_path: Path) -> None:
    with open_steps(tmp_path) as steps:
        for name in ("fit ab first", "fit ab second", "fit abc first", "other"):
            steps.keep(name, (), Outcome(1.0))
        steps.forget("fit ab ")
        left = [steps.find(name, (), float) is not None for name in ("fit ab first", "other")]
        assert left == [False, True]
        assert steps.find("fit abc first", (), float) is not None


def test_a_kept_step_tells_and_draws_the_same(tmp_path: Path) -> None:
    def run() -> tuple[list[float], list[str]]:
        torch.manual_seed(0)
        with open_steps(tmp_path) as steps:
            journal = Journal(False, steps)

            def compute() -> float:
                journal.note("it was computed")
                return float(torch.rand(()))

            first = journal.step("draws", (), float, compute)
            return [first, float(torch.rand(()))], journal.notes

    with torch.random.fork_rng(devices=[]):
        assert run() == run()


def test_values_are_told_without_addresses() -> None:
    class Odd:
        def __init__(self, value: object):
            self.value = value

    def rule(x: float) -> bool:
        return x < 1

    def other(x: float) -> bool:
        return x < 2

    other.__qualname__ = rule.__qualname__
    values: list[Any] = [Odd(1), Odd(2), rule, other, {1, 2}, np.arange(3), torch.ones(2), None]
    told = [tell(value) for value in values]
    assert len(set(told)) == len(told)
    assert not any("0x" in text for text in told)
    assert tell({"b": 1, "a": 2}) == tell({"a": 2, "b": 1})
    assert fingerprint((torch.ones(2),)) != fingerprint((torch.ones(1, 2),))
    assert differences({"a": "1"}, {"a": "2", "b": "3"}) == ["a was 1 and is 2"]
    assert differences({"a": "1"}, {"a": "2" * 200}) == ["a changed"]
