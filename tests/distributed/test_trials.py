"""Ranks that try candidates one each: one that fails or is killed at it."""

import os
import signal
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import fxprune
from benchmarks.killing.runs import Job
from fxprune.allocate.problem import Candidate
from fxprune.allocate.trials import Trials
from fxprune.calibrate.recording import Recording
from tests.distributed.forked import on_forks
from tests.distributed.test_checkpoint import alone, run
from tests.distributed.work import sequences, transformer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked"),
]
OPTIONS: dict[str, Any] = {"flops": 0.5, "decision": "argmax"}


def test_a_rank_that_fails_at_a_trial_is_told_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, data, tried = transformer(), sequences(), Trials._try

    def work(rank: int) -> str:
        def fails(trials: Trials, candidate: Candidate, recording: Recording) -> float:
            if rank == 1:
                raise RuntimeError("no room")
            return tried(trials, candidate, recording)

        monkeypatch.setattr(Trials, "_try", fails)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fxprune.compress(net, data, progress=False, **OPTIONS)
        return "through"

    for one in on_forks(work, 2, tmp_path / "ranks"):
        assert (one.code, one.told.error) == (3, "Rank 1 of 2: RuntimeError: no room"), one


def dies_at_a_trial_of_its_own() -> None:
    """Makes a process kill itself while it tries a candidate that no other rank tries."""
    tried = Trials._try

    def killing(trials: Trials, candidate: Candidate, recording: Recording) -> float:
        error = tried(trials, candidate, recording)
        if recording.sums.group.size == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return error

    Trials._try = killing  # type: ignore[assignment, method-assign]


def test_killed_at_a_trial_of_its_own(tmp_path: Path) -> None:
    job = Job(transformer(), torch.cat(sequences()), OPTIONS)
    expected, seen = alone(job), list[str]()
    for at in (1, 0):
        ended = run(job, tmp_path, 2, at=at, prepare=dies_at_a_trial_of_its_own)
        assert (ended[at].code, ended[1 - at].code) == (-signal.SIGKILL, 3), ended
        seen += ended[0].told.kept
    assert not any(name.startswith("trial") for name in seen)
    for ranks in (3, 1):  # the second run finds what the first one made
        for one in (ended := run(job, tmp_path, ranks)):
            assert one.told.digest == expected, one
        seen += ended[0].told.kept
    assert len(seen) == len(set(seen))
    assert any(name.startswith("trial") for name in seen)


def test_four_ranks_try_candidates_and_give_the_bytes_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, deal = Job(transformer(), torch.cat(sequences()), OPTIONS), Trials._deal
    expected = alone(job)

    def work(rank: int) -> str:
        dealt = list[int]()

        def noted(trials: Trials, candidates: Sequence[Candidate]) -> None:
            dealt.append(len(candidates))
            deal(trials, candidates)

        monkeypatch.setattr(Trials, "_deal", noted)
        found = alone(job)
        assert dealt, "trials are dealt out"
        assert max(dealt) > 1
        return found

    for one in on_forks(work, 4, tmp_path / "ranks"):
        assert (one.code, one.told.digest) == (0, expected), one
