"""Every notebook of docs/notebooks/ runs, as the plain script that it is."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.py"))
OPTIONAL = ("onnx", "onnxruntime", "onnxscript")
notebooks = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)


@pytest.mark.slow
@notebooks
def test_the_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    if "onnxruntime" in notebook.read_text():
        for name in OPTIONAL:
            if importlib.util.find_spec(name) is None:
                pytest.skip(f"{name} is not installed")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", notebook],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") > 5
    assert list(tmp_path.iterdir()) == []


@notebooks
def test_the_notebook_tells_and_shows(notebook: Path) -> None:
    cells = re.split(r"^# %%", notebook.read_text(), flags=re.MULTILINE)[1:]
    told = [cell for cell in cells if cell.startswith(" [markdown]\n# ")]
    assert told
    assert told[0].startswith(" [markdown]\n# # ")
    assert len(cells) - len(told) > 2
    assert f"notebooks/{notebook.name}" in (ROOT / "mkdocs.yml").read_text()
