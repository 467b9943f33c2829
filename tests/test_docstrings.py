"""The byte-level language model: its text, its training command, and the table of what is kept."""

import math
from pathlib import Path

import pytest
import torch

import fxprune
from benchmarks import language, train_lm
from benchmarks.datasets.docstrings import text, windows
from benchmarks.models.language import ByteLM, trained

SOURCE = '''"""{name} is a module with a docstring that is long enough to be taken in."""

def f():
    """Short."""

class C:
    """Another docstring, of a class, which is long enough as well: {name}."""
'''


def library(folder: Path) -> Path:
    (folder / "test").mkdir()
    for i in range(60):
        (folder / f"m{i}.py").write_text(SOURCE.format(name=f"m{i}"))
        (folder / "test" / f"t{i}.py").write_text(SOURCE.format(name=f"t{i}"))
    (folder / "broken.py").write_text("def (")
    return folder


def test_no_file_is_in_two_splits(tmp_path: Path) -> None:
    root = library(tmp_path)
    found = {s: bytes(text(s, root).tolist()).decode() for s in ("train", "calibration", "test")}
    for i in range(60):
        assert sum(f"m{i} is a module" in part for part in found.values()) == 1
        assert sum(f"as well: m{i}." in part for part in found.values()) == 1
    assert not any("t1 is" in part or "Short" in part for part in found.values())
    assert all(found.values())


def test_windows_do_not_overlap() -> None:
    pieces = windows(torch.arange(100), 9, 20)
    assert pieces.shape == (11, 9)
    assert len(pieces.unique()) == 99


@pytest.mark.slow
def test_the_training_command_and_the_table(tmp_path: Path) -> None:
    out = tmp_path / "language.safetensors"
    train_lm.main(steps=2, every=1, batch=2, length=16, width=32, depth=1, out=out)
    assert out.stat().st_size < 100_000
    torch.manual_seed(0)
    net = ByteLM(32, 1, 2, 64).eval()
    pieces = windows(torch.randint(0, 256, (4000,)), 16, 60)
    rows = language.measure(net, pieces[:40], pieces[40:], [0.8])
    assert [row["what"] for row in rows] == list(language.WAYS)
    assert all(0 < row["agreement"] <= 1 for row in rows)
    assert language.table(rows).splitlines()[0] == "| | FLOPs 0.8 |"
    assert language.same_tokens(net, net, pieces) == 1
    assert sum(p.numel() for p in ByteLM().parameters()) < 7_000_000


def test_it_is_known_to_predict_bytes() -> None:
    torch.manual_seed(0)
    net = ByteLM(32, 1, 2, 64).eval()
    pieces = windows(torch.randint(0, 256, (4000,)), 16, 60)
    small = fxprune.compress(net, pieces, flops=0.9, method="uniform", progress=False)
    found = fxprune.report(small).agreement
    assert found is not None
    assert found.unit == "next token"
    with torch.no_grad():
        assert small(pieces[:2, :9]).shape == (2, 9, 256)


def test_the_trained_model_predicts_bytes_that_it_has_not_seen() -> None:
    pieces = windows(text("test"), 128, 8)
    assert train_lm.evaluate(trained(), pieces) < 2.2 * math.log(2)
