"""A run that is killed goes on: the same bytes, whatever was done, and refusals in words."""

import json
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


CERTIFIED = {"flops": 0.15, "agreement": 0.5, "decision": "argmax"}
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
    for last, kept in ((1, True), (8, False)):
        computed = stop_at(last, kept)
        with pytest.raises(Killed):
            compress(make(), data, checkpoint=tmp_path, **options)
        done += computed if kept else computed[:-1]
    rest = stop_at(-1, False)
    small = compress(make(), data, checkpoint=tmp_path, **options)
    assert told(small) == expected
    assert len(done) == 8 and rest
    print(done, rest)
