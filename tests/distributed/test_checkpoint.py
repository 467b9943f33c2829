"""Several processes of which one is killed go on from their checkpoint, with any number of them."""

import os
import random
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

import fxprune
from benchmarks.killing.disturbances import KINDS, Bench, loader_fails, wrong_in
from benchmarks.killing.processes import Ended, Told
from benchmarks.killing.runs import Examples, Job, Run, digest
from benchmarks.kills import one_round, others, reference
from fxprune.distributed import together
from fxprune.errors import DistributedError
from fxprune.progress import Journal
from fxprune.resume.steps import MANIFEST, RESULT, STEPS, KeptSteps
from tests import streams
from tests.distributed.forked import on_forks
from tests.distributed.work import perceptron, sequences, transformer
from tests.nets import images

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")
OPTIONS: dict[str, Any] = {"flops": 0.5, "effort": 1, "decision": "argmax"}


def alone(job: Job) -> str:
    """The digest of what one process gives without a checkpoint."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        small = fxprune.compress(job.net, Examples(job.images), progress=False, **job.options)
        torch.set_num_threads(threads)
    return digest(small)


def run(job: Job, folder: Path, ranks: int, **disturbed: Any) -> list[Ended]:
    ended, hung = Run(job, folder, ranks, **disturbed).end(300)
    assert not hung
    return ended


def dies_in(step: int) -> Callable[[], None]:
    """Makes a process kill itself within its n-th new step, at the end of the first within it."""

    def prepare() -> None:
        compute, seen = Journal._compute, list[str]()

        def counted(self: Journal, name: str, key: tuple[Any, ...], work: Any) -> Any:
            def killing() -> Any:
                found = work()
                if len(seen) >= step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return found

            seen.append(name)
            return compute(self, name, key, killing)

        Journal._compute = counted  # type: ignore[assignment, method-assign]

    return prepare


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / STEPS).iterdir())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Job, str]:
    """A folder in which one of two processes was killed and one went on, and the result."""
    folder = tmp_path_factory.mktemp("run")
    job = Job(perceptron(), images(101), OPTIONS)
    expected = alone(job)
    first, second = run(job, folder, 2, at=1, prepare=dies_in(4))
    assert second.code == -signal.SIGKILL
    assert (first.code, first.told.crash) == (3, "")
    assert first.told.error.startswith("Rank 0 of 2 lost another one")
    assert kept(folder) == sorted(first.told.kept)
    # The search is the first step, and asks for the others: the pass over the examples, in two
    # files, derivatives, and the first removal order, which the rank had told before it was killed.
    assert len(first.told.kept) == 4
    (rest,) = run(job, folder, 1)
    assert rest.told.digest == expected, rest
    assert not set(rest.told.kept) & set(first.told.kept)
    return folder, job, expected


def test_one_process_goes_on_for_two(finished: tuple[Path, Job, str]) -> None:
    folder, _, _ = finished
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, "lock", RESULT, STEPS]
    assert not kept(folder)


def without_the_folder() -> None:
    """Makes a rank that does not see the folder of the first one."""

    def fails(*values: object) -> None:
        raise AssertionError("another rank's folder")

    for name in ("fxprune.distributed.steps.open_steps", "fxprune.saving.finished._read"):
        pytest.MonkeyPatch().setattr(name, fails)


@pytest.mark.slow
def test_all_ranks_get_what_is_finished(finished: tuple[Path, Job, str]) -> None:
    folder, job, expected = finished
    for one in run(job, folder, 2, at=1, prepare=without_the_folder):
        assert (one.told.digest, one.told.kept) == (expected, []), one


@pytest.mark.slow
def test_another_run_is_refused_on_all_ranks(finished: tuple[Path, Job, str]) -> None:
    folder, job, _ = finished
    other = Job(job.net, job.images, {**OPTIONS, "flops": 0.6})
    for one in run(other, folder, 2):
        assert one.code == 3
        assert "Rank 0 of 2: checkpoint=" in one.told.error
        assert "flops was 0.5 and is 0.6" in one.told.error
    spoiled = Examples(job.images.flip(0))
    for one in run(job, folder, 2, at=1, examples=spoiled):
        assert one.told.digest, "the order of the first rank counts"
    for one in run(job, folder, 2, at=1, examples=Examples(job.images + 1)):
        assert one.code == 3
        assert "the number of calibration examples was 101 and is 202" in one.told.error


def verbs(folder: Path) -> tuple[str, int]:
    """A digest of what `plan`, `factorize` and `targets=` give, and how many steps they keep."""
    keep, kept = KeptSteps.keep, list[str]()

    def told(self: KeptSteps, name: str, *more: Any) -> None:
        kept.append(name)
        keep(self, name, *more)

    net, data = perceptron(), list(images(96).split(16))
    whole: dict[str, Any] = {"flops": 0.5, "effort": 1, "progress": False}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(KeptSteps, "keep", told)
        plan = fxprune.plan(net, data, checkpoint=folder / "plan", **whole)
        thin = fxprune.factorize(net, data, params=0.6, checkpoint=folder / "thin", progress=False)
        outer = nn.Sequential(net, nn.Softmax(1)).eval()
        parts = fxprune.compress(outer, data, targets="0", checkpoint=folder / "parts", **whole)
    found = digest(thin), digest(parts.get_submodule("0")), plan.to_json()
    return " ".join(found), len(kept)


@pytest.mark.slow
def test_other_verbs_keep_their_steps_too(tmp_path: Path) -> None:
    def work(rank: int) -> str:
        found, kept = verbs(tmp_path)
        assert bool(kept) == (rank == 0)
        return found

    def again(rank: int) -> str:
        found, kept = verbs(tmp_path)
        assert not kept
        return found

    ended = on_forks(work, 2, tmp_path / "two") + on_forks(again, 1, tmp_path / "one")
    assert [one.told.crash for one in ended] == [""] * 3
    assert len({one.told.digest for one in ended}) == 1
    assert all(one.code == 0 for one in ended), ended


@pytest.mark.slow
def test_work_may_take_longer_than_connecting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "CONNECTION", timedelta(seconds=3))

    def work(rank: int) -> str:
        with together.together() as group:
            time.sleep(3.5 * rank)
            every, channel = group.gather(rank, "ranks"), group._channel
            assert channel is not None
            if rank == 0:
                return f"{every} {len(channel.receive(((5000,), torch.uint8), 1, 'bytes'))}"
            time.sleep(3.5)
            channel.send(torch.zeros(5000, dtype=torch.uint8), 0, "bytes")
            return f"{every} sent"

    first, second = on_forks(work, 2, tmp_path / "ranks")
    assert (first.told.digest, second.told.digest) == ("[0, 1] 5000", "[0, 1] sent")


def test_a_rank_that_dies_while_they_connect_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "CONNECTION", timedelta(seconds=1))

    def work(rank: int) -> str:
        if rank == 1:
            monkeypatch.setattr(distributed, "new_group", lambda **options: os._exit(9))
        with together.together():
            return "both are there"

    first, second = on_forks(work, 2, tmp_path / "ranks")
    assert second.code == 9
    assert first.code == 3, first
    assert "Rank 0 of 2 could not connect to another one" in first.told.error


def test_who_holds_the_meeting_may_be_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With tcp:// the store, in which the ranks meet, lives in the first one's process."""

    class Gone:
        def set(self, *values: object) -> None:
            raise distributed.DistNetworkError("Connection reset by peer")

        wait = check = set

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed.distributed_c10d, "_get_default_store", Gone)
    with (
        pytest.raises(DistributedError, match="Rank 1 of 2 could not connect to another one"),
        together.together(),
    ):
        pass


@pytest.mark.slow
def test_the_campaign_disturbs_one_of_two(finished: tuple[Path, Job, str], tmp_path: Path) -> None:
    _, job, expected = finished
    digest, seconds, files = reference(job, tmp_path, 2)
    assert digest == expected
    shutil.rmtree(tmp_path)
    bench = Bench(job, tmp_path, seconds, files, random.Random(0), 2)
    (found,), problem = one_round(bench, [KINDS.index(loader_fails)], digest)
    assert (found.ended, found.wrong, problem) == ("error in words", "", "")


def test_the_campaign_looks_at_every_process() -> None:
    lost = Ended(3, Told(error="Rank 1 of 2 lost another one (at fits)"))
    killed, failed = Ended(-signal.SIGKILL, Told()), Ended(3, Told(error="a NaN"))
    through = Ended(0, Told(digest="it"))
    assert not wrong_in([killed, lost], 0, {-signal.SIGKILL}, "")
    assert not wrong_in([killed, through], 0, {-signal.SIGKILL}, "")
    assert not wrong_in([failed, failed], 0, {3}, "NaN")
    assert wrong_in([killed, failed], 0, {-signal.SIGKILL}, "") == "rank 1 has another error: a NaN"
    assert wrong_in([through, failed], 0, {3}, "NaN") == "rank 1 ends with 3: a NaN"
    assert wrong_in([failed, through], 0, {3}, "NaN") == "rank 1 ends with 0: "
    assert others([through, failed], "it") == "rank 1: exit code 3, a NaN"
    assert others([through], "that") == "rank 0: exit code 0, other bytes"


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor], dict[str, Any]]] = {
    "ranks and rotated": (transformer, lambda: torch.cat(sequences()), {}),
    "streams": (streams.net, streams.inputs, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_again_and_again_with_other_numbers(case: str, tmp_path: Path) -> None:
    make, data, options = CASES[case]
    job = Job(make(), data(), {"flops": 0.5, "decision": "argmax", **options})
    expected, seen = alone(job), list[str]()
    for ranks, at, step in ((2, 0, 3), (1, 0, 3), (3, 2, 6)):
        ended = run(job, tmp_path, ranks, at=at, prepare=dies_in(step))
        assert ended[at].code == -signal.SIGKILL, ended
        assert all(one.code == 3 for rank, one in enumerate(ended) if rank != at), ended
        seen += ended[0].told.kept
    for one in (ended := run(job, tmp_path, 2)):
        assert one.told.digest == expected, one
    seen += ended[0].told.kept
    assert len(seen) == len(set(seen))
