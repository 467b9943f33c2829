"""Saved models: the same outputs in a fresh process, and nothing but errors from files that fxprune did not write."""

import ast
import copy
import hashlib
import json
import os
import random
import re
import struct
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.fx import GraphModule

import fxprune
from benchmarks import nets
from fxprune.demo import data
from fxprune.errors import StorageError
from fxprune.graph_json import Decoder, encode
from fxprune.operators import NAMES_OF_FUNCTIONS, operator_named

TRAINED = ("vgg", "resnet20", "densenet")


@lru_cache
def compressed(name: str) -> GraphModule:
    method = "uniform" if name == "vgg" else "paper-uniform"
    return fxprune.compress(nets.trained(name), data.load().calibration[:200], flops=0.5, method=method, progress=False)


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


@pytest.mark.parametrize("name", TRAINED)
def test_round_trip_in_a_fresh_process_without_the_source(name: str, tmp_path: Path) -> None:
    small, images = compressed(name), data.load().images[:64]
    path = tmp_path / f"{name}.safetensors"
    fxprune.save(small, path)
    torch.save(images, tmp_path / "images.pt")
    # Only the package is visible: a folder with links to it, so that its neighbour `benchmarks` is not.
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
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "out.pt", weights_only=True), small(images))
    count, method, kept = done.stdout.split()
    assert (int(count), method, int(kept)) == (len(small.state_dict()), fxprune.report(small).method, len(fxprune.plan_of(small).kept))


@pytest.mark.parametrize("name", TRAINED)
def test_what_is_in_the_file(name: str, tmp_path: Path) -> None:
    small, original = compressed(name), nets.trained(name)
    fxprune.save(small, tmp_path / "small.safetensors")
    again = fxprune.load(tmp_path / "small.safetensors")
    state, loaded, plain = small.state_dict(), again.state_dict(), load_file(tmp_path / "small.safetensors")
    assert list(state) == list(loaded)
    assert set(state) == set(plain)
    for key, tensor in state.items():
        assert torch.equal(tensor, loaded[key])
        assert torch.equal(tensor, plain[key])
        assert tensor.dtype is loaded[key].dtype
    sizes = [sum(t.numel() * t.element_size() for t in m.state_dict().values()) for m in (original, small)]
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
    assert not torch.equal(before["features.1.running_mean"], small.state_dict()["features.1.running_mean"])
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
            assert layer.weight.shape[:2] == (layer.out_channels, layer.in_channels // layer.groups), path
        elif isinstance(layer, nn.Linear):
            assert layer.weight.shape == (layer.out_features, layer.in_features), path
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.num_features == len(layer.running_mean) == len(layer.weight), path
    assert all(torch.equal(t, state[k]) for k, t in original.state_dict().items())
    assert fxprune.report(resized) == fxprune.report(small)


def test_into_another_class_is_refused(tmp_path: Path) -> None:
    fxprune.save(compressed("vgg"), tmp_path / "small.safetensors")
    with pytest.raises(StorageError, match="do not fit into this ResNet20.*no features.0.weight"):
        fxprune.load(tmp_path / "small.safetensors", into=nets.NETS["resnet20"]())
    wider = nets.NETS["vgg"]()
    wider.features[0] = nn.Conv2d(1, 40, 3)
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
    """Shared and strided weights, every kind of buffer, nested inputs and outputs, constants that JSON has no type for."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 3, 3)
        self.twice = nn.Linear(12, 12)
        self.tied = nn.Linear(12, 12)
        self.tied.weight = self.twice.weight
        self.register_buffer("mask", torch.ones(1, dtype=torch.bool), persistent=False)
        self.register_buffer("phase", torch.tensor([1 + 2j, 3 - 1j]))
        self.a = self.a.to(memory_format=torch.channels_last)
        self.c.weight.requires_grad_(False)

    def forward(self, x: Tensor, more: dict[str, Tensor], *, scale: Tensor) -> dict[str, Any]:
        y = self.c(torch.relu(self.b(torch.relu(self.a(x)))))
        y = y.masked_fill(torch.zeros_like(y, dtype=torch.bool), float("-inf")).to(torch.float64).to(torch.float32)
        z = self.tied(self.twice(more["z"])) * self.mask
        return OrderedDict(y=y * scale, pair=Pair(z, more["w"].contiguous(memory_format=torch.contiguous_format)), rest=[z.abs(), None],
                           phase=torch.view_as_real(self.phase).sum() + z)  # fmt: skip


def odd_call() -> dict[str, Any]:
    return {"x": torch.randn(4, 3, 10, 10), "more": {"z": torch.randn(4, 12), "w": torch.randn(4, 2)}, "scale": torch.ones(4, 1, 1, 1)}


def test_odd_things_survive(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Odd()
    calls = [odd_call() for _ in range(8)]
    small = fxprune.compress(
        model, calls, flops=0.7, method="magnitude", progress=False, decision=lambda a, b: torch.ones(4, dtype=torch.bool)
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
    assert any("a Pair among the inputs or outputs becomes a plain tuple" in n for n in fxprune.report(again).notes)
    assert again.get_parameter("tied.weight") is again.get_parameter("twice.weight")
    assert "tied.weight" not in load_file(tmp_path / "odd.safetensors") or "twice.weight" not in load_file(tmp_path / "odd.safetensors")
    assert set(again.state_dict()) == set(small.state_dict())
    for name, tensor in (*small.named_parameters(), *small.named_buffers()):
        loaded = operator_path(again, name)
        assert (loaded.dtype, loaded.stride(), loaded.requires_grad) == (tensor.dtype, tensor.stride(), tensor.requires_grad), name


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
    replaced.classifier.add_module("4", nn.Bilinear(2, 2, 2))  # type: ignore[union-attr, operator]
    with pytest.raises(StorageError, match=r"classifier.4 is a Bilinear"):
        fxprune.save(replaced, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "saving.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "saving.md", "exec"), names)
    assert "FLOPs per example" in capsys.readouterr().out


def test_values_as_json() -> None:
    values = (
        None, True, -3, 0.1, float("inf"), float("nan"), 1 + 2j, "same", [1, (2, [3.5])], {"a": 1}, slice(None, 3, 2), Ellipsis, torch.bfloat16,
        torch.channels_last, torch.strided, torch.device("cuda", 1), (),
    )  # fmt: skip
    text = json.dumps(encode(values), allow_nan=False)
    found = Decoder({}, torch.device("cpu"), torch.device("cpu"))(json.loads(text))
    assert repr(found) == repr(values)
    moved = Decoder({}, torch.device("cuda"), torch.device("cpu"))(json.loads(text))
    assert moved[-2] == torch.device("cpu")


# Files that fxprune did not write. Every one of them is refused, or holds the same model.

CANARY = "open('canary', 'w')"


class File:
    """A saved file taken apart."""

    def __init__(self, content: bytes):
        (size,) = struct.unpack("<Q", content[:8])
        self.header = json.loads(content[8 : 8 + size])
        self.rest = content[8 + size :]
        self.document = json.loads(self.header["__metadata__"]["fxprune"])

    def content(self) -> bytes:
        """The file with a digest that fits, as an attacker would write it."""
        held = self.header["__metadata__"]
        held["fxprune"] = json.dumps(self.document)
        held["sha256"] = hashlib.sha256("\0".join(held[k] for k in ("fxprune", "plan", "report")).encode()).hexdigest()
        text = json.dumps(self.header).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text + self.rest


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "small.safetensors"
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
    fxprune.save(fxprune.compress(net, torch.randn(64, 1, 8, 8), flops=0.5, method="magnitude", progress=False), path)
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, in which nothing may appear that a file asks for."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "canary").exists()


def attempt(content: bytes) -> GraphModule | str:
    """What loading gives, or the error's text; any other kind of error is raised."""
    Path("bad.safetensors").write_bytes(content)
    try:
        return fxprune.load("bad.safetensors")
    except StorageError as error:
        assert str(error).startswith("bad.safetensors")  # noqa: PT017
        return str(error)


def refused(content: bytes, words: str = "") -> None:
    found = attempt(content)
    assert isinstance(found, str), "loaded"
    assert words in found


@pytest.fixture
def like(saved: bytes, tmp_path: Path) -> GraphModule:
    (tmp_path / "good.safetensors").write_bytes(saved)
    return fxprune.load(tmp_path / "good.safetensors")


def test_truncated(saved: bytes, folder: Path) -> None:
    header = 8 + struct.unpack("<Q", saved[:8])[0]
    for at in {*range(12), *range(0, len(saved), 97), header - 1, header, header + 1, len(saved) - 1}:
        refused(saved[:at])
    refused(saved + b"\0")


def test_flipped_bytes(saved: bytes, folder: Path, like: GraphModule) -> None:
    generator = random.Random(0)
    header = 8 + struct.unpack("<Q", saved[:8])[0]
    places = [*range(16), *(generator.randrange(header) for _ in range(250)), *(generator.randrange(header, len(saved)) for _ in range(60))]
    for at in places:
        changed = bytearray(saved)
        changed[at] ^= 1 << generator.randrange(8)
        small = attempt(bytes(changed))
        if isinstance(small, GraphModule):
            assert small.code == like.code
            assert all(torch.equal(t, small.state_dict()[k]) for k, t in like.state_dict().items())


def test_a_newer_file_and_another_kind_of_file(saved: bytes, folder: Path) -> None:
    file = File(saved)
    file.document["version"] = 2
    refused(file.content(), words="Update fxprune")
    del file.header["__metadata__"]["fxprune"]
    text = json.dumps(file.header).encode()
    refused(struct.pack("<Q", len(text)) + text + file.rest, words="not written by fxprune.save")
    file.header["__metadata__"]["fxprune"] = "[" * 100_000
    text = json.dumps(file.header).encode()
    refused(struct.pack("<Q", len(text)) + text + file.rest, words="RecursionError")
    refused(b"PK\x03\x04 something else")
    refused(b"")
    with pytest.raises(StorageError, match="no such file"):
        fxprune.load("absent.safetensors")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path into a JSON document."""
    if isinstance(value, dict):
        return [path] + [p for k, v in value.items() for p in places(v, (*path, k))]
    if isinstance(value, list):
        return [path] + [p for i, v in enumerate(value) for p in places(v, (*path, i))]
    return [path]


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    result = copy.copy(document)
    result[path[0]] = replaced(document[path[0]], path[1:], value)
    return result


def calls(small: GraphModule) -> set[str]:
    """Everything that the compiled source calls."""
    return {ast.unparse(n.func) for n in ast.walk(ast.parse(small.code.strip())) if isinstance(n, ast.Call)}


def test_wrong_types_everywhere(saved: bytes, folder: Path, like: GraphModule) -> None:
    """With digests that fit. What loads nevertheless has the right tensors, and only whitelisted code."""
    generator = random.Random(0)
    document = File(saved).document
    everywhere = places(document)
    for path in generator.sample(everywhere, min(len(everywhere), 400)):
        for value in generator.sample([None, -1, 10**30, 0.5, True, [], {}, [[]], CANARY, "../../x", {"node": "x"}, {"device": "no"}], 3):
            file = File(saved)
            file.document = replaced(document, path, value)
            small = attempt(file.content())
            assert isinstance(small, str) or calls(small) <= calls(like)


@pytest.mark.parametrize("part", ["plan", "report"])
def test_wrong_types_in_plan_and_report(saved: bytes, folder: Path, part: str) -> None:
    generator = random.Random(0)
    document = json.loads(File(saved).header["__metadata__"][part])
    everywhere = places(document)
    for path in generator.sample(everywhere, min(len(everywhere), 60)):
        for value in (None, {}, [[]], "x", [None], -1.5):
            file = File(saved)
            file.header["__metadata__"][part] = json.dumps(replaced(document, path, value))
            small = attempt(file.content())
            if isinstance(small, GraphModule):
                str(fxprune.report(small))
                hash(fxprune.plan_of(small))


NAMES = (
    "__import__", "__import__('os').system('touch canary')", "../../etc/passwd", "os.system", "builtins.eval", "builtins.exec",
    "builtins.__import__", "builtins.getattr", "builtins.open", "operator.attrgetter", "operator.methodcaller", "aten.relu",
    "aten.relu.default.__class__", "aten.__class__.default", "aten._dir.x", "aten.save.default", "aten.from_file.default", "aten.relu_.default",
    "aten.set_.source_Storage", "aten._print.default", "aten.nothing.default", "aten.relu.nothing", "aten.relu.op", "prims.add.default",
    "aten.add_.Tensor", "aten::relu", "torch.load", "torch.ops.load_library", "", "aten..default", "aten.relu.default\n", "operator.getitem",
)  # fmt: skip


def test_operators_outside_the_tables(saved: bytes, folder: Path) -> None:
    at = next(i for i, n in enumerate(File(saved).document["graph"]["nodes"]) if n["target"] == "aten.relu.default")
    for name in NAMES:
        file = File(saved)
        file.document["graph"]["nodes"][at]["target"] = name
        refused(file.content())


def test_operator_table() -> None:
    for text in ("aten.relu.default", "aten.__and__.Tensor", "aten._softmax.default", "aten.sym_size.int", "aten.batch_norm.default"):
        assert str(operator_named(text)) == text
    assert all(callable(f) and n.partition(".")[0] in ("operator", "math", "builtins", "torch") for f, n in NAMES_OF_FUNCTIONS.items())
    forbidden = {eval, exec, compile, open, getattr, setattr, __import__, input, torch.load}
    assert not forbidden & set(NAMES_OF_FUNCTIONS)


INJECTIONS = (
    f"x=__import__('builtins').{CANARY}", f'a"); __import__("builtins").{CANARY}; ("', f"x\n    __import__('builtins').{CANARY}\n    y",
    f"x: {CANARY}", "../x", "..", "a..b", "/etc/passwd", "x' : 0}), __import__('os'), ({'y", "__class__", "self.__class__", "lambda",
    "self", "torch", "pytree", "0.__func__", "x\ny",
)  # fmt: skip


def test_names_that_would_reach_the_compiled_source(saved: bytes, folder: Path, like: GraphModule) -> None:
    """Argument names, keyword names, layer paths and node names are written into the graph's Python source by torch.fx."""

    def edit(change: Callable[[dict[str, Any], str], None]) -> None:
        for text in INJECTIONS:
            file = File(saved)
            change(file.document, text)
            refused(file.content())

    nodes = {n["op"]: i for i, n in enumerate(File(saved).document["graph"]["nodes"])}
    function, layer, placeholder = nodes["call_function"], nodes["call_module"], nodes["placeholder"]

    def structure(document: dict[str, Any], text: str) -> None:
        document["graph"]["structure"]["names"] = [text]

    def keywords(document: dict[str, Any], text: str) -> None:
        document["graph"]["structure"]["inputs"] = {"tuple": [{"tuple": []}, {"dict": [[text, None]]}]}

    def target(index: int) -> Callable[[dict[str, Any], str], None]:
        return lambda document, text: document["graph"]["nodes"][index].__setitem__("target", text)

    def name(document: dict[str, Any], text: str) -> None:
        document["graph"]["nodes"][function]["name"] = text

    def argument(document: dict[str, Any], text: str) -> None:
        document["graph"]["nodes"][function]["kwargs"] = {text: 0}

    def module(document: dict[str, Any], text: str) -> None:
        document["modules"][text] = {"kind": "Module", "args": {}, "training": False}

    def tensor(document: dict[str, Any], text: str) -> None:
        document["tensors"][text] = {"same": "0.weight", "persistent": True}

    def kind(document: dict[str, Any], text: str) -> None:
        document["modules"]["0"]["kind"] = text

    def class_name(document: dict[str, Any], text: str) -> None:
        document["class"] = text

    for change in (structure, keywords, target(function), target(layer), target(placeholder), name, argument, kind):
        edit(change)
    for text in INJECTIONS:
        for also in (module, tensor, class_name):
            file = File(saved)
            also(file.document, text)
            small = attempt(file.content())
            assert isinstance(small, str) or calls(small) <= calls(like)


def test_layers_and_tensors_that_do_not_fit(saved: bytes, folder: Path) -> None:
    def check(words: str, change: Callable[[File], None]) -> None:
        file = File(saved)
        change(file)
        refused(file.content(), words=words)

    check("has (", lambda f: f.document["modules"]["0"]["args"].update(out_channels=9))
    check("stride", lambda f: f.document["modules"]["0"]["args"].update(stride={"tuple": ["1", 1]}))
    check("takes [", lambda f: f.document["modules"]["0"]["args"].update(device="cpu"))
    check("the arguments", lambda f: f.document["modules"]["0"]["args"].pop("bias"))
    check("layer class 'ReLU'", lambda f: f.document["modules"]["0"].update(kind="ReLU"))
    check("described but missing", lambda f: f.document["tensors"].pop("0.weight"))
    check("does not match its digest", lambda f: setattr(f, "rest", bytes(len(f.rest))))
    check("does not fit 64 bits", lambda f: f.document["graph"]["nodes"][-2]["args"].append(10**30))
    check("nested too deep", lambda f: f.document["graph"]["nodes"][-2]["args"].append(nested(40)))
    check("two nodes", lambda f: f.document["graph"]["nodes"].insert(1, f.document["graph"]["nodes"][1]))
    check("comes later", lambda f: f.document["graph"]["nodes"][1].update(args=[{"node": "output"}]))
    check("only output", lambda f: f.document["graph"]["nodes"].pop())
    check("description", lambda f: setattr(f, "document", []))

    def renamed(file: File) -> None:
        file.header["spare"] = file.header.pop("0.weight")
        file.document["tensors"]["spare"] = file.document["tensors"].pop("0.weight")

    check("lacks 0.weight", renamed)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value
