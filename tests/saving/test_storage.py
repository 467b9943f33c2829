"""Saved models: the same outputs in a fresh process, into the original class, and refusals that
say why.
"""

import copy
import json
import os
import re
import subprocess
import sys
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.fx import GraphModule

import fxprune
from benchmarks.models import nets
from fxprune.demo import data
from fxprune.errors import StorageError
from fxprune.saving.values import Decoder, encode

TRAINED = ("vgg", "resnet20", "densenet")


@lru_cache
def compressed(name: str) -> GraphModule:
    method = "uniform" if name == "vgg" else "paper-uniform"
    return fxprune.compress(
        nets.trained(name), data.load().calibration[:200], flops=0.5, method=method, progress=False
    )


@pytest.fixture(autouse=True)
def quiet() -> None:
    import warnings

    warnings.simplefilter("ignore")


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


@pytest.mark.parametrize("name", TRAINED)
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


@pytest.mark.parametrize("name", ["vgg", "resnet20", "mobilenet", "densenet", "mlp"])
def test_into_the_original_class(name: str, tmp_path: Path) -> None:
    small, original = compressed(name), nets.NETS[name]().eval()
    state = copy.deepcopy(original.state_dict())
    fxprune.save(small, tmp_path / "small.safetensors")
    resized = fxprune.load(tmp_path / "small.safetensors", into=original)
    assert type(resized) is type(original)
    images = data.load().images[:32]
    with torch.no_grad():
        assert torch.equal(resized(images), small(images))
    for path, layer in resized.named_modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.shape[:2] == (
                layer.out_channels,
                layer.in_channels // layer.groups,
            ), path
        elif isinstance(layer, nn.Linear):
            assert layer.weight.shape == (layer.out_features, layer.in_features), path
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None, path
            assert layer.num_features == len(layer.running_mean) == len(layer.weight), path
    assert all(torch.equal(t, state[k]) for k, t in original.state_dict().items())
    assert fxprune.report(resized) == fxprune.report(small)


def test_into_another_class_is_refused(tmp_path: Path) -> None:
    fxprune.save(compressed("vgg"), tmp_path / "small.safetensors")
    with pytest.raises(StorageError, match="do not fit into this ResNet20.*no features.0.weight"):
        fxprune.load(tmp_path / "small.safetensors", into=nets.NETS["resnet20"]())
    wider = nets.NETS["vgg"]()
    wider.set_submodule("features.0", nn.Conv2d(1, 40, 3))
    with pytest.raises(StorageError, match=r"features.0.weight has the shape \(40, 1, 3, 3\)"):
        fxprune.load(tmp_path / "small.safetensors", into=wider)
    with pytest.raises(StorageError, match="device='nonsense' is not a device"):
        fxprune.load(tmp_path / "small.safetensors", device="nonsense")
    with pytest.raises(StorageError, match="not a dict"):
        fxprune.load(tmp_path / "small.safetensors", into={})  # type: ignore[call-overload]


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


class Odd(nn.Module):
    """Shared and strided weights, every kind of buffer, nested inputs and outputs, constants that
    JSON has no type for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(3, 16, 3),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.Conv2d(16, 3, 3),
        )
        self.twice = nn.Linear(12, 12)
        self.tied = nn.Linear(12, 12)
        self.tied.weight = self.twice.weight
        self.register_buffer("mask", torch.ones(1, dtype=torch.bool), persistent=False)
        self.register_buffer("phase", torch.tensor([1 + 2j, 3 - 1j]))
        self.a = self.a.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.c.weight.requires_grad_(False)

    def forward(self, x: Tensor, more: dict[str, Tensor], *, scale: Tensor) -> dict[str, Any]:
        y = self.c(torch.relu(self.b(torch.relu(self.a(x)))))
        y = (
            y.masked_fill(torch.zeros_like(y, dtype=torch.bool), float("-inf"))
            .to(torch.float64)
            .to(torch.float32)
        )
        z = self.tied(self.twice(more["z"])) * self.mask
        return OrderedDict(
            y=y * scale,
            pair=Pair(z, more["w"].contiguous(memory_format=torch.contiguous_format)),
            rest=[z.abs(), None],
            phase=torch.view_as_real(self.get_buffer("phase")).sum() + z,
        )


def odd_call() -> dict[str, Any]:
    return {
        "x": torch.randn(4, 3, 10, 10),
        "more": {"z": torch.randn(4, 12), "w": torch.randn(4, 2)},
        "scale": torch.ones(4, 1, 1, 1),
    }


def test_odd_things_survive(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Odd()
    calls = [odd_call() for _ in range(8)]
    small = fxprune.compress(
        model,
        calls,
        flops=0.7,
        method="magnitude",
        progress=False,
        decision=lambda a, b: torch.ones(len(a["y"]), dtype=torch.bool),
    )
    fxprune.save(small, tmp_path / "odd.safetensors")
    again = fxprune.load(tmp_path / "odd.safetensors")
    with torch.no_grad():
        expected, found = small(**calls[0]), again(**calls[0])
    assert isinstance(found, OrderedDict)
    assert list(found) == ["y", "pair", "rest", "phase"]
    assert torch.equal(expected["y"], found["y"])
    assert isinstance(found["pair"], tuple)
    assert torch.equal(expected["pair"].first, found["pair"][0])
    assert found["rest"][1] is None
    assert any(
        "a Pair among the inputs or outputs becomes a plain tuple" in n
        for n in fxprune.report(again).notes
    )
    assert again.get_parameter("tied.weight") is again.get_parameter("twice.weight")
    assert "tied.weight" not in load_file(
        tmp_path / "odd.safetensors"
    ) or "twice.weight" not in load_file(tmp_path / "odd.safetensors")
    assert set(again.state_dict()) == set(small.state_dict())
    for name, tensor in (*small.named_parameters(), *small.named_buffers()):
        loaded = operator_path(again, name)
        assert (loaded.dtype, loaded.stride(), loaded.requires_grad) == (
            tensor.dtype,
            tensor.stride(),
            tensor.requires_grad,
        ), name


def operator_path(module: nn.Module, name: str) -> Tensor:
    return dict((*module.named_parameters(), *module.named_buffers()))[name]


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


def test_values_as_json() -> None:
    values = (
        None,
        True,
        -3,
        0.1,
        float("inf"),
        float("nan"),
        1 + 2j,
        "same",
        [1, (2, [3.5])],
        {"a": 1},
        slice(None, 3, 2),
        Ellipsis,
        torch.bfloat16,
        torch.channels_last,
        torch.strided,
        torch.device("cuda", 1),
        (),
    )
    text = json.dumps(encode(values), allow_nan=False)
    found = Decoder({}, torch.device("cpu"), torch.device("cpu"))(json.loads(text))
    assert repr(found) == repr(values)
    moved = Decoder({}, torch.device("cuda"), torch.device("cpu"))(json.loads(text))
    assert moved[-2] == torch.device("cpu")
