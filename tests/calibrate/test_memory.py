"""Memory does not grow with the number of calibration batches, past what `memory=` allows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 16e6
SCRIPT = """
import sys
from pathlib import Path
import torch
import fxprune
from tests.nets import Stream, images, tiny

torch.set_num_threads(1)
batches, method = int(sys.argv[1]), sys.argv[2]
fxprune.compress(
    tiny(),
    Stream(batches, lambda i: images(100, i, size=32)),
    flops=0.5,
    method=method,
    progress=False,
    memory=float(sys.argv[3]),
)
fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(fields["VmHWM"].split()[0]) * 1024)
"""


def peak(batches: int, method: str) -> int:
    """Largest resident size of a process that compresses with this many batches of 100 images of
    12 kB, in bytes.

    What is freed goes back to the system at once, so that the peak is what is held: what the C
    library keeps of freed memory varies by 40 MB from run to run, with as many batches.
    """
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(batches), method, str(MEMORY)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"},
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
@pytest.mark.parametrize("method", ["paper", "auto"])
def test_four_times_the_batches(method: str) -> None:
    """The inputs alone grow by 59 MB and the activations by more than ten times that; neither may
    stay in memory.
    """
    small, large = peak(16, method), peak(64, method)
    assert large - small < 15e6, (
        f"{small / 1e6:.0f} MB with 16 batches, {large / 1e6:.0f} MB with 64"
    )
