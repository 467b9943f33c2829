"""Every notebook of docs/notebooks/ runs, as the plain script that it is."""

import importlib.util
import re
import warnings
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.py"))
SHORTER = (
    (r"pictures\.calibration\b(?!\[)", "pictures.calibration[:300]"),
    (r"pictures\.images\[:2000\]", "pictures.images[:500]"),
    (r"pictures\.(images|labels)(\[3000:\])", r"pictures.\1[3000:3500]"),
    (r"pictures\.(images|labels)\)", r"pictures.\1[:500])"),
    (r"sequences\(1000,", "sequences(400,"),
)
"""Fewer examples are enough to see that the code runs; what it claims must hold."""
OPTIONAL = ("onnx", "onnxruntime", "onnxscript")
notebooks = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)


@pytest.mark.slow
@notebooks
def test_the_notebook_runs(
    notebook: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = notebook.read_text()
    if "onnxruntime" in text:
        for name in OPTIONAL:
            if importlib.util.find_spec(name) is None:
                pytest.skip(f"{name} is not installed")
    for long, short in SHORTER:
        text = re.sub(long, short, text)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        exec(compile(text, notebook.name, "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.count("\n") > 5
    assert list(tmp_path.iterdir()) == []


@notebooks
def test_the_notebook_tells_and_shows(notebook: Path) -> None:
    cells = re.split(r"^# %%", notebook.read_text(), flags=re.MULTILINE)[1:]
    told = [cell for cell in cells if cell.startswith(" [markdown]\n# ")]
    assert told
    assert told[0].startswith(" [markdown]\n# # ")
    assert len(cells) - len(told) > 2
    assert f"notebooks/{notebook.name}" in (ROOT / "mkdocs.yml").read_text()
