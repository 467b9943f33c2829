"""Other processes take what compress returns."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fxprune
from tests.handover.results import equal, made

FRESH = """
import sys, torch, fxprune
assert not any(name.startswith("tests") for name in sys.modules)
small = torch.load("small.pt", weights_only=False)
args, kwargs = torch.load("inputs.pt", weights_only=False)
torch.save(small(*args, **kwargs), "out.pt")
print(fxprune.report(small).method, len(fxprune.plan_of(small).kept))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "dict", "siamese", "encoder"])
def test_a_fresh_process_needs_no_source_of_the_model(name: str, tmp_path: Path) -> None:
    small, args, kwargs = made(name)
    torch.save(small, tmp_path / "small.pt")
    torch.save((args, kwargs), tmp_path / "inputs.pt")
    run_alone(FRESH, tmp_path, "uniform", str(len(fxprune.plan_of(small).kept)))
    with torch.no_grad():
        equal(torch.load(tmp_path / "out.pt", weights_only=False), small(*args, **kwargs))


def run_alone(script: str, folder: Path, *printed: str) -> None:
    """A script in a process in which fxprune can be imported, and none of its tests."""
    (folder / "packages").mkdir()
    root = Path(fxprune.__file__).resolve().parent.parent
    for part in ("fxprune", "passes"):
        (folder / "packages" / part).symlink_to(root / part)
    environment = os.environ | {
        "PYTHONPATH": str(folder / "packages"),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(printed)


OTHERS = '''
import sys
import torch
from torch import multiprocessing
from torch.utils.data import DataLoader, Dataset


class Scored(Dataset):
    """Rows as a model scores them, in the worker."""

    def __init__(self, model, rows):
        self.model, self.rows = model, rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, at):
        with torch.no_grad():
            return self.model(self.rows[at : at + 1])[0]


def score(rank, model, rows, out):
    with torch.no_grad():
        out.copy_(model(rows))


if __name__ == "__main__":
    small = torch.load("small.pt", weights_only=False)
    rows = torch.load("inputs.pt")[0][0]
    with torch.no_grad():
        expected = small(rows)
    workers = DataLoader(
        Scored(small, rows), batch_size=len(rows), num_workers=1, multiprocessing_context="spawn"
    )
    (found,) = workers
    torch.testing.assert_close(found, expected)
    small.share_memory()
    out = torch.zeros_like(expected).share_memory_()
    multiprocessing.spawn(score, (small, rows, out), nprocs=1)
    torch.testing.assert_close(out, expected)
    print("scored")
'''


@pytest.mark.slow
def test_data_workers_and_other_processes_take_it(tmp_path: Path) -> None:
    small, args, kwargs = made("cnn")
    torch.save(small, tmp_path / "small.pt")
    torch.save((args, kwargs), tmp_path / "inputs.pt")
    (tmp_path / "others.py").write_text(OTHERS)
    script = "import runpy; runpy.run_path('others.py', run_name='__main__')"
    run_alone(script, tmp_path, "scored")
