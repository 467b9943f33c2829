"""Saved models: the same outputs in a fresh process, and refusals that say why."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import fxprune
from benchmarks.models import nets
from fxprune.demo import data
from fxprune.errors import StorageError
from tests.saving.trained import compressed

TRAINED = ("vgg", "resnet20", "densenet")
LISTED = ("vgg", "resnet20", pytest.param("densenet", marks=pytest.mark.slow))


FRESH = """
import sys
sys.path[:] = [p for p in sys.path if p not in ("", {root!r})]
sys.modules["benchmarks"] = None
try:
    import benchmarks
except ImportError:
    pass
else:
    raise SystemExit("benchmarks can be imported")
sys.path.append({packages!r})
import torch, fxprune
small = fxprune.load({path!r})
with torch.no_grad():
    torch.save(small(torch.load({images!r}, weights_only=True)), {out!r})
print(len(small.state_dict()), fxprune.report(small).method, len(fxprune.plan_of(small).kept))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_round_trip_in_a_fresh_process_without_the_source(name: str, tmp_path: Path) -> None:
    small, images = compressed(name), data.load().images[:64]
    path = tmp_path / f"{name}.safetensors"
    fxprune.save(small, path)
    torch.save(images, tmp_path / "images.pt")
    # Only the package is visible: a folder with links to it, so that its neighbor `benchmarks` is
    # not.
    (tmp_path / "packages").mkdir()
    root = Path(fxprune.__file__).resolve().parent.parent
    for part in ("fxprune", "passes"):
        (tmp_path / "packages" / part).symlink_to(root / part)
    script = FRESH.format(
        root=str(root),
        packages=str(tmp_path / "packages"),
        path=str(path),
        images=str(tmp_path / "images.pt"),
        out=str(tmp_path / "out.pt"),
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "OMP_NUM_THREADS": str(torch.get_num_threads())
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "out.pt", weights_only=True), small(images))
    count, method, kept = done.stdout.split()
    assert (int(count), method, int(kept)) == (
        len(small.state_dict()),
        fxprune.report(small).method,
        len(fxprune.plan_of(small).kept),
    )


@pytest.mark.parametrize("name", LISTED)
def test_what_is_in_the_file(name: str, tmp_path: Path) -> None:
    small, original = compressed(name), nets.trained(name)
    fxprune.save(small, tmp_path / "small.safetensors")
    again = fxprune.load(tmp_path / "small.safetensors")
    state, loaded, plain = (
        small.state_dict(),
        again.state_dict(),
        load_file(tmp_path / "small.safetensors"),
    )
    assert list(state) == list(loaded)
    assert set(state) == set(plain)
    for key, tensor in state.items():
        assert torch.equal(tensor, loaded[key])
        assert torch.equal(tensor, plain[key])
        assert tensor.dtype is loaded[key].dtype
    sizes = [
        sum(t.numel() * t.element_size() for t in m.state_dict().values())
        for m in (original, small)
    ]
    described = (tmp_path / "small.safetensors").stat().st_size - sizes[1]
    assert sizes[1] + described < 0.75 * sizes[0]
    assert described < 150_000
    assert fxprune.report(again) == fxprune.report(small)
    assert fxprune.plan_of(again) == fxprune.plan_of(small)
    assert again.code == small.code
    assert not any(m.training for m in again.modules())


def test_a_loaded_model_trains_and_saves_again(tmp_path: Path) -> None:
    fxprune.save(compressed("vgg"), tmp_path / "a.safetensors")
    small = fxprune.load(tmp_path / "a.safetensors").train()
    assert any(isinstance(m, nn.Dropout) and m.training for m in small.modules())
    images = data.load().calibration[:16]
    optimizer = torch.optim.SGD(small.parameters(), 1e-2)
    before = {n: t.clone() for n, t in small.state_dict().items()}
    torch.nn.functional.cross_entropy(small(images), torch.arange(16) % 10).backward()
    assert all(p.grad is not None for p in small.parameters())
    optimizer.step()
    assert not torch.equal(
        before["features.1.running_mean"], small.state_dict()["features.1.running_mean"]
    )
    small.eval()
    fxprune.save(small, tmp_path / "a.safetensors")
    again = fxprune.load(tmp_path / "a.safetensors")
    with torch.no_grad():
        assert torch.equal(again(images), small(images))
    duplicate = copy.deepcopy(again)
    assert fxprune.report(duplicate) == fxprune.report(small)


def test_what_cannot_be_saved_says_why(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="VGG cannot be saved"):
        fxprune.save(nets.trained("vgg"), tmp_path / "x.safetensors")
    small = compressed("vgg")
    with pytest.raises(StorageError, match="in a folder that exists"):
        fxprune.save(small, tmp_path / "nowhere" / "x.safetensors")
    broken = copy.deepcopy(small)
    call = next(n for n in broken.graph.nodes if n.op == "call_function")
    call.target = torch.special.expm1
    with pytest.raises(StorageError, match="calls special_expm1, which cannot be saved"):
        fxprune.save(broken, tmp_path / "x.safetensors")
    replaced = copy.deepcopy(small)
    replaced.get_submodule("classifier").add_module("4", nn.Bilinear(2, 2, 2))
    with pytest.raises(StorageError, match=r"classifier.4 is a Bilinear"):
        fxprune.save(replaced, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "saving.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "saving.md", "exec"), names)
    assert "FLOPs per example" in capsys.readouterr().out
