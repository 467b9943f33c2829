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
SHORTER = (
    (r"pictures\.calibration\b(?!\[)", "pictures.calibration[:400]"),
    (r"pictures\.images\[:2000\]", "pictures.images[:1000]"),
)
"""Of the demo's images fewer are enough to see that the code runs; what it claims must hold."""
OPTIONAL = ("onnx", "onnxruntime", "onnxscript")
notebooks = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)


@pytest.mark.slow
@notebooks
def test_the_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    text, folder = notebook.read_text(), tmp_path / "current"
    if "onnxruntime" in text:
        for name in OPTIONAL:
            if importlib.util.find_spec(name) is None:
                pytest.skip(f"{name} is not installed")
    for long, short in SHORTER:
        text = re.sub(long, short, text)
    script = tmp_path / notebook.name
    script.write_text(text)
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") > 5
    assert list(folder.iterdir()) == []


@notebooks
def test_the_notebook_tells_and_shows(notebook: Path) -> None:
    cells = re.split(r"^# %%", notebook.read_text(), flags=re.MULTILINE)[1:]
    told = [cell for cell in cells if cell.startswith(" [markdown]\n# ")]
    assert told
    assert told[0].startswith(" [markdown]\n# # ")
    assert len(cells) - len(told) > 2
    assert f"notebooks/{notebook.name}" in (ROOT / "mkdocs.yml").read_text()
