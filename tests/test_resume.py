"""A run that is killed goes on: the same bytes, whatever was done, and refusals in words."""

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import StorageError
from fxprune.resume.steps import MANIFEST, RESULT, STEPS, KeptSteps
from fxprune.resume.tensor_file import write_tensors
from tests.nets import images, tiny
from tests.rotations import examples, separate

DATA = list(images(160).split(32))
TIMED = ("seconds", "peak_memory", "passes")


def compress(net: nn.Module, data: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fxprune.compress(net, data, **{"flops": 0.5, "progress": False, **options})


def told(small: nn.Module) -> tuple[dict[str, bytes], str, dict[str, Any]]:
    """All of a result but its times: weights, plan, report."""
    report = json.loads(fxprune.report(small).to_json())
    state = {name: bytes(t.numpy().tobytes()) for name, t in small.state_dict().items()}
    plan = fxprune.plan_of(small).to_json()
    return state, plan, {k: v for k, v in report.items() if k not in TIMED}


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, bool], list[str]]:
    """Makes a run end at its n-th new step, before or after that is kept; gives the names of those
    that were computed.
    """
    keep = KeptSteps.keep

    def stop(last: int, kept: bool) -> list[str]:
        computed = list[str]()

        def counted(self: KeptSteps, name: str, *more: Any) -> None:
            computed.append(name)
            if len(computed) == last and not kept:
                raise Killed
            keep(self, name, *more)
            if len(computed) == last:
                raise Killed

        monkeypatch.setattr(KeptSteps, "keep", counted)
        return computed

    return stop


def attention() -> nn.Module:
    """One whose channels are rotated, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return separate().eval()


CERTIFIED = {"flops": 0.08, "agreement": 0.5, "decision": "argmax"}
CASES: dict[str, tuple[Callable[[], nn.Module], Any, dict[str, Any]]] = {
    "certified": (tiny, DATA, CERTIFIED),
    "ranks and rotated": (attention, examples(separate, 160).float(), {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_stopped_anywhere_the_result_is_the_same(
    case: str, tmp_path: Path, stop_at: Callable[[int, bool], list[str]]
) -> None:
    make, data, options = CASES[case]
    expected = told(compress(make(), data, **options))
    done = list[str]()
    for last, kept in ((2, True), (7, False)):
        computed = stop_at(last, kept)
        with pytest.raises(Killed):
            compress(make(), data, checkpoint=tmp_path, **options)
        done += computed if kept else computed[:-1]
    rest = stop_at(-1, False)
    small = compress(make(), data, checkpoint=tmp_path, **options)
    assert told(small) == expected
    assert len(done) == 8
    assert rest


class Counted:
    """A loader that counts how often it is read.

    Args:
        batches: what it gives.
    """

    def __init__(self, batches: list[Tensor]):
        self.batches, self.reads = batches, 0

    def __iter__(self) -> Iterator[Tensor]:
        self.reads += 1
        return iter(self.batches)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder of a finished run, and its result."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, told(compress(tiny(), DATA, checkpoint=folder))


def test_a_finished_run_returns_at_once(
    finished: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected = finished
    assert sorted(p.name for p in folder.iterdir()) == sorted([MANIFEST, "lock", RESULT, STEPS])
    assert not list((folder / STEPS).iterdir())
    monkeypatch.setattr("fxprune.pipeline.open_session", None)
    examples = Counted(DATA)
    small = compress(tiny(), examples, checkpoint=str(folder))
    assert told(small) == expected
    assert examples.reads == 1
    assert torch.equal(small(DATA[0]), fxprune.load(folder / RESULT)(DATA[0]))


def other_weights() -> nn.Module:
    net = tiny()
    with torch.no_grad():
        net.get_parameter("second.bias")[0] += 1
    return net


def rule(reference: Tensor, output: Tensor) -> Tensor:
    return (reference - output).abs().amax(1) < 1


@pytest.mark.parametrize(
    ("net", "data", "options", "words"),
    [
        (tiny, DATA, {"flops": 0.6}, "flops was 0.5 and is 0.6"),
        (tiny, DATA, {"seed": 1, "effort": 3}, "seed was 0 and is 1; effort was 2 and is 3"),
        (tiny, DATA, {"method": "channels"}, "method was auto and is channels"),
        (tiny, DATA, {"keep": {"first": 0.9}}, "keep was None and is {'first': 0.9}"),
        (tiny, DATA, {"decision": rule}, "decision changed"),
        (other_weights, DATA, {}, "the weights of the model changed"),
        (tiny, DATA[:-1], {}, "the number of calibration examples was 160 and is 128"),
        (tiny, [DATA[0] + 1e-6, *DATA[1:]], {}, "the calibration data changed"),
        (tiny, DATA[::-1], {}, "the order of the calibration data changed"),
        (tiny, torch.cat(DATA).split(16), {}, "the sizes of the batches changed"),
        (tiny, DATA, {"groups": [0, *range(159)]}, "the groups of the examples changed"),
    ],
)
def test_another_run_is_refused_by_what_changed(
    finished: tuple[Path, Any],
    net: Callable[[], nn.Module],
    data: Any,
    options: dict[str, Any],
    words: str,
) -> None:
    before = {p: p.read_bytes() for p in finished[0].iterdir() if p.is_file() and p.name != "lock"}
    with pytest.raises(StorageError) as caught:
        compress(net(), data, checkpoint=finished[0], **options)
    assert words in str(caught.value)
    assert "Name another folder" in str(caught.value)
    after = {p: p.read_bytes() for p in finished[0].iterdir() if p.is_file() and p.name != "lock"}
    assert after == before


def test_another_version_is_refused(
    finished: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fxprune, "__version__", "9.9")
    with pytest.raises(StorageError, match=r"fxprune was \S+ and is 9\.9"):
        compress(tiny(), DATA, checkpoint=finished[0])
    monkeypatch.undo()
    monkeypatch.setattr(torch, "__version__", "9.9")
    with pytest.raises(StorageError, match=r"torch was \S+ and is 9\.9"):
        compress(tiny(), DATA, checkpoint=finished[0])


def test_another_forward_is_refused(finished: tuple[Path, Any]) -> None:
    class Tiny(type(tiny())):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = 2 * super().forward(x)
            return logits

    Tiny.__module__, Tiny.__qualname__ = type(tiny()).__module__, type(tiny()).__qualname__
    net = Tiny().eval()
    net.load_state_dict(tiny().state_dict())
    with pytest.raises(StorageError, match="the captured graph changed"):
        compress(net, DATA, checkpoint=finished[0])


@pytest.mark.slow
def test_damaged_files_are_made_again(
    finished: tuple[Path, Any], tmp_path: Path, stop_at: Callable[[int, bool], list[str]]
) -> None:
    folder = tmp_path / "run"
    computed = stop_at(10, True)
    with pytest.raises(Killed):
        compress(tiny(), DATA, checkpoint=folder)
    first = list(computed)
    cut, turned = sorted((folder / STEPS).glob("profile*"))[:2]
    cut.write_bytes(cut.read_bytes()[:-7])
    data = bytearray(turned.read_bytes())
    data[-1] ^= 4
    turned.write_bytes(data)
    recorded, *_ = sorted((folder / STEPS).glob("recording-*"))
    recorded.unlink()
    computed = stop_at(-1, False)
    small = compress(tiny(), DATA, checkpoint=folder)
    assert told(small) == finished[1]
    assert {"recording", "observed", "profile first", "profile hidden"} <= set(first)
    again = set(first) & set(computed)
    assert {"recording", "observed"} <= again
    assert sum(name.startswith("profile") for name in computed) >= 2
    assert "sensitivities" not in computed


@pytest.mark.slow
def test_a_damaged_result_is_made_again(finished: tuple[Path, Any], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    (folder / RESULT).write_bytes((folder / RESULT).read_bytes()[:-100])
    assert told(compress(tiny(), DATA, checkpoint=folder)) == finished[1]
    assert told(fxprune.load(folder / RESULT)) == finished[1]


def test_what_no_disk_holds_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr("fxprune.pipeline.compress_session", None)
    with pytest.raises(StorageError, match=r"may take .* MB, .* the disk has 0 MB left. Make room"):
        compress(tiny(), DATA, checkpoint=tmp_path)


@pytest.mark.slow
def test_a_disk_that_fills_up_loses_nothing(
    finished: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fxprune.resume import steps

    written, write = list[str](), write_tensors

    def fills(path: Path, *more: Any) -> None:
        if len(written) == 6:
            raise OSError(28, "No space left on device")
        written.append(path.name)
        write(path, *more)

    monkeypatch.setattr(steps, "write_tensors", fills)
    with pytest.raises(StorageError, match="No space left on device.*is whole: make room"):
        compress(tiny(), DATA, checkpoint=tmp_path)
    assert sorted(p.name for p in (tmp_path / STEPS).iterdir()) == sorted(written)
    monkeypatch.undo()

    def full(*values: object) -> None:
        raise StorageError("small.safetensors cannot be written: No space left on device.")

    monkeypatch.setattr("fxprune.saving.finished.save", full)
    with pytest.warns(UserWarning, match="does not keep the compressed model.*No space left"):
        small = fxprune.compress(tiny(), DATA, flops=0.5, progress=False, checkpoint=tmp_path)
    assert told(small) == finished[1]
    assert list((tmp_path / STEPS).glob("fit-*"))


def test_parts_are_runs_of_their_own(tmp_path: Path) -> None:
    net = nn.Sequential(tiny(), nn.Softmax(1)).eval()
    first = compress(net, DATA, targets=["0"], checkpoint=tmp_path)
    assert (tmp_path / "parts" / "0" / RESULT).is_file()
    again = compress(net, DATA, targets=["0"], checkpoint=tmp_path)
    assert told(again.get_submodule("0")) == told(first.get_submodule("0"))


@pytest.mark.slow
def test_a_plan_is_gone_on_with(
    finished: tuple[Path, Any], tmp_path: Path, stop_at: Callable[[int, bool], list[str]]
) -> None:
    options: dict[str, Any] = {"flops": 0.5, "progress": False, "checkpoint": tmp_path / "plan"}
    plan = fxprune.plan(tiny(), DATA, **options)
    computed = stop_at(-1, False)
    assert fxprune.plan(tiny(), DATA, **options) == plan
    assert not computed
    assert told(compress(tiny(), DATA, checkpoint=tmp_path / "plan")) == finished[1]
    assert "trial" not in computed
