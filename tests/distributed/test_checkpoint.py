"""Several processes of which one is killed go on from their checkpoint, with any number of them."""

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from benchmarks.killing.processes import Ended
from benchmarks.killing.runs import Examples, Job, Run, digest
from fxprune.progress import Journal
from fxprune.resume.steps import MANIFEST, RESULT, STEPS
from tests import streams
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
    """Makes a process kill itself within its n-th new step."""

    def prepare() -> None:
        compute, seen = Journal._compute, list[str]()

        def counted(self: Journal, name: str, key: tuple[Any, ...], work: Any) -> Any:
            def killing() -> Any:
                found = work()
                if len(seen) == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return found

            seen.append(name)
            return compute(self, name, key, killing)

        Journal._compute = counted  # type: ignore[method-assign]

    return prepare


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / STEPS).iterdir())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Job, str]]:
    """A folder in which one of two processes was killed and one went on, and the result."""
    folder = tmp_path_factory.mktemp("run")
    job = Job(perceptron(), images(101), OPTIONS)
    expected = alone(job)
    first, second = run(job, folder, 2, at=1, prepare=dies_in(4))
    assert second.code == -signal.SIGKILL
    assert (first.code, first.told.crash) == (3, "")
    assert first.told.error.startswith("Rank 0 of 2 lost another one")
    assert kept(folder) == sorted(first.told.kept)
    assert len(first.told.kept) == 4  # the fourth step is called by the recording's name too
    (rest,) = run(job, folder, 1)
    assert rest.told.digest == expected, rest
    assert not set(rest.told.kept) & set(first.told.kept)
    yield folder, job, expected


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
