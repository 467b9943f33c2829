"""Several processes train one model, and a killed training goes on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fxprune
from fxprune.errors import StorageError
from fxprune.recovery.checkpoint import State
from fxprune.recovery.loop import Loop
from tests.recovery.subjects import agreement, compressed, recovered

ROOT = Path(__file__).resolve().parents[2]
WORKER = str(ROOT / "tests" / "recovery" / "worker.py")
TWO = ("--num_processes=2", "--main_process_port={}")
"""Without --multi_gpu, accelerate starts several processes on a CPU through MPI only."""
PLAIN = fxprune.Training(rate=3e-3, batch=32)


def start(*arguments: object, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"ACCELERATE_USE_CPU": "true", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        [sys.executable, *launcher, WORKER, *map(str, arguments)],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        ("-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port={}"),
        ("-m", "accelerate.commands.launch", "--multi_gpu", *TWO),
    ],
    ids=["torchrun", "accelerate"],
)
def test_two_processes_reach_what_one_does(tmp_path: Path, launcher: tuple[str, ...]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    named = tuple(option.format(port) for option in launcher)
    finish(start(tmp_path / "two", tmp_path / "folder", 80, 0, launcher=named))
    two = fxprune.load(tmp_path / "two")
    row = fxprune.report(two).recovery
    assert row is not None
    assert row.processes == 2
    one = recovered(compressed(), steps=160, training=PLAIN)
    assert agreement(two) > agreement(compressed()) + 0.01
    assert abs(agreement(two) - agreement(one)) < 0.02


@pytest.mark.slow
def test_a_killed_training_goes_on(tmp_path: Path) -> None:
    folder, steps = tmp_path / "folder", 60
    process = start(tmp_path / "out", folder, steps, 0.1)
    while process.poll() is None:
        time.sleep(0.05)
        if (folder / "latest.json").is_file() and reached(folder) >= 10:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out").exists()
    kept = reached(folder)
    assert 10 <= kept < steps
    finish(start(tmp_path / "out", folder, steps, 0))
    assert reached(folder) == steps
    made = fxprune.load(tmp_path / "out")
    finish(start(tmp_path / "whole", tmp_path / "other", steps, 0))
    whole = fxprune.load(tmp_path / "whole")
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(made.state_dict()[name], tensor)


def reached(folder: Path) -> int:
    return int(json.loads((folder / "latest.json").read_text())["state"]["step"])


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    first = recovered(compressed(), steps=10, training=PLAIN, checkpoint=tmp_path)
    again = recovered(compressed(), steps=10, training=PLAIN, checkpoint=tmp_path)
    rows = [fxprune.report(made).recovery for made in (first, again)]
    assert replace(rows[0], seconds=0.0) == replace(rows[1], seconds=0.0)  # type: ignore[type-var]
    for name, tensor in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    longer = recovered(compressed(), steps=14, training=PLAIN, checkpoint=tmp_path)
    assert fxprune.report(longer).recovery.steps == 14  # type: ignore[union-attr]


@pytest.mark.parametrize("cut", [2, 4, 8])
def test_a_training_that_went_back_goes_on_from_a_checkpoint(
    cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wild = fxprune.Training(rate=0.1, batch=32, save_seconds=0.0)
    whole = recovered(compressed(), steps=60, training=wild, checkpoint=tmp_path / "whole")
    assert json.loads((tmp_path / "whole" / "latest.json").read_text())["state"]["rate"] < 1
    step, folder = Loop._step, tmp_path / "cut"

    def stopping(self: Loop, state: State, *more: float) -> float:
        if state.step == cut:
            raise KeyboardInterrupt
        return step(self, state, *more)

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            recovered(compressed(), steps=60, training=wild, checkpoint=folder)
    assert reached(folder) == cut
    made = recovered(compressed(), steps=60, training=wild, checkpoint=folder)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(made.state_dict()[name], tensor)


def test_checkpoints_of_another_training_and_damaged_ones(tmp_path: Path) -> None:
    recovered(compressed(), steps=2, training=PLAIN, checkpoint=tmp_path)
    with pytest.raises(StorageError, match="other models, examples or settings"):
        recovered(compressed(), steps=2, training=PLAIN, checkpoint=tmp_path, seed=1)
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(StorageError, match="is damaged"):
        recovered(compressed(), steps=2, training=PLAIN, checkpoint=tmp_path)
    (tmp_path / "latest.json").write_text("{")
    with pytest.raises(StorageError, match="is damaged"):
        recovered(compressed(), steps=2, training=PLAIN, checkpoint=tmp_path)
