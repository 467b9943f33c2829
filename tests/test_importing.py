"""What `import fxprune` loads beside torch: little, and only what every system has."""

import json
import subprocess
import sys
from functools import cache

import pytest

from tests.test_package import ROOT

LATER = (
    "scipy",
    "networkx",
    "rich",
    "typer",
    "setuptools",
    "matplotlib",
    "jinja2",
    "cpuinfo",
    "platformdirs",
    "psutil",
    "resource",
)
"""Loaded where they are first needed, each as slow as a part of torch or not on every system."""
MOST = 40
"""Modules beyond torch's and fxprune's own: NumPy's random numbers and safetensors take 15."""


@cache
def loaded(*names: str) -> frozenset[str]:
    """Modules of a new interpreter after these imports."""
    code = f"import {', '.join(names)}, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return frozenset(json.loads(done.stdout))


@pytest.mark.slow
def test_importing_loads_little_beside_torch() -> None:
    new = loaded("torch", "fxprune") - loaded("torch")
    assert [name for name in LATER if name in new] == []
    others = {name for name in new if name.partition(".")[0] != "fxprune"}
    assert len(others) <= MOST, sorted(others)
