"""Files that fxprune did not write: every one of them is refused in clear words, or holds the same
model; none runs anything.
"""

import ast
import copy
import hashlib
import json
import pickle
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.fx import GraphModule

import fxprune
from fxprune.cli import sources
from fxprune.errors import SourceError, StorageError
from fxprune.saving.operators import NAMES_OF_FUNCTIONS, operator_named

CANARY = "open('canary', 'w')"


class File:
    """A saved file taken apart."""

    def __init__(self, content: bytes):
        (size,) = struct.unpack("<Q", content[:8])
        self.header = json.loads(content[8 : 8 + size])
        self.rest = content[8 + size :]
        self.document = json.loads(self.header["__metadata__"]["fxprune"])

    def content(self, **texts: str) -> bytes:
        """The file with a digest that fits, as an attacker would write it; `texts` replace parts
        of the description.
        """
        held = self.header["__metadata__"]
        held |= {"fxprune": json.dumps(self.document), **texts}
        held["sha256"] = hashlib.sha256(
            "\0".join(held[k] for k in ("fxprune", "plan", "report")).encode()
        ).hexdigest()
        text = json.dumps(self.header).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text + self.rest


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "small.safetensors"
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 4),
    )
    fxprune.save(
        fxprune.compress(
            net, torch.randn(64, 1, 8, 8), flops=0.5, method="magnitude", progress=False
        ),
        path,
    )
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
    for at in {
        *range(12),
        *range(0, len(saved), 97),
        header - 1,
        header,
        header + 1,
        len(saved) - 1,
    }:
        refused(saved[:at])
    refused(saved + b"\0")


class _Runs:
    """A pickle that leaves a file where it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("canary", "w")


def test_pickles_are_not_opened(folder: Path) -> None:
    refused(pickle.dumps(_Runs()), words="not a complete safetensors file")
    torch.save({"weight": _Runs()}, "archive.pt")
    assert not (folder / "canary").exists()
    refused(Path("archive.pt").read_bytes(), words="not a complete safetensors file")


@pytest.mark.parametrize("part", ["fxprune", "plan", "report"])
def test_truncated_description(saved: bytes, folder: Path, part: str) -> None:
    """With a digest that fits what is left."""
    text = File(saved).header["__metadata__"][part]
    for at in (0, 1, len(text) // 3, len(text) // 2, len(text) - 1):
        file = File(saved)
        refused(file.content(**{part: text[:at]}), words="damaged")
        refused(file.content(**{part: text[:at] + "\0" + text[at:]}), words="damaged")


def test_headers_that_lie_about_the_tensors(saved: bytes, folder: Path) -> None:
    for size in (0, 1, 2**31, 2**63, 2**64 - 1):
        refused(struct.pack("<Q", size) + saved[8:], words="not a complete safetensors file")
    for change in (
        {"data_offsets": [0, 10**12]},
        {"data_offsets": [-4, 0]},
        {"data_offsets": [4, 0]},
        {"data_offsets": "../x"},
        {"shape": [10**9, 10**9]},
        {"shape": [-1]},
        {"shape": None},
        {"dtype": "I64"},
        {"dtype": "object"},
        {"dtype": None},
    ):
        file = File(saved)
        file.header["0.weight"] |= change
        refused(file.content())
    for name in (
        "../../0.weight",
        "/etc/passwd",
        "C:\\\\x",
        "..",
        "__class__",
        "0.weight\0",
        "a" * 10_000,
    ):
        file = File(saved)
        file.header[name] = file.header.pop("0.weight")
        refused(file.content(), words="described but missing")


def test_flipped_bytes(saved: bytes, folder: Path, like: GraphModule) -> None:
    generator = random.Random(0)
    header = 8 + struct.unpack("<Q", saved[:8])[0]
    places = [
        *range(16),
        *(generator.randrange(header) for _ in range(250)),
        *(generator.randrange(header, len(saved)) for _ in range(60)),
    ]
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
    return {
        ast.unparse(n.func)
        for n in ast.walk(ast.parse(small.code.strip()))
        if isinstance(n, ast.Call)
    }


WRONG: list[Any] = [
    None,
    -1,
    10**30,
    0.5,
    True,
    [],
    {},
    [[]],
    CANARY,
    "../../x",
    {"node": "x"},
    {"device": "no"},
]
"""Values of every type, for places that want another."""


def test_wrong_types_everywhere(saved: bytes, folder: Path, like: GraphModule) -> None:
    """With digests that fit. What loads nevertheless has the right tensors, and only whitelisted
    code.
    """
    generator = random.Random(0)
    document = File(saved).document
    everywhere = places(document)
    for path in generator.sample(everywhere, min(len(everywhere), 400)):
        for value in generator.sample(WRONG, 3):
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
        wrong: list[Any] = [None, {}, [[]], "x", [None], -1.5]
        for value in wrong:
            file = File(saved)
            file.header["__metadata__"][part] = json.dumps(replaced(document, path, value))
            small = attempt(file.content())
            if isinstance(small, GraphModule):
                str(fxprune.report(small))
                hash(fxprune.plan_of(small))


NAMES = (
    "__import__",
    "__import__('os').system('touch canary')",
    "../../etc/passwd",
    "os.system",
    "builtins.eval",
    "builtins.exec",
    "builtins.__import__",
    "builtins.getattr",
    "builtins.open",
    "operator.attrgetter",
    "operator.methodcaller",
    "aten.relu",
    "aten.relu.default.__class__",
    "aten.__class__.default",
    "aten._dir.x",
    "aten.save.default",
    "aten.from_file.default",
    "aten.relu_.default",
    "aten.set_.source_Storage",
    "aten._print.default",
    "aten.nothing.default",
    "aten.relu.nothing",
    "aten.relu.op",
    "prims.add.default",
    "aten.add_.Tensor",
    "aten::relu",
    "torch.load",
    "torch.ops.load_library",
    "",
    "aten..default",
    "aten.relu.default\n",
    "operator.getitem",
)


def test_operators_outside_the_tables(saved: bytes, folder: Path) -> None:
    at = next(
        i
        for i, n in enumerate(File(saved).document["graph"]["nodes"])
        if n["target"] == "aten.relu.default"
    )
    for name in NAMES:
        file = File(saved)
        file.document["graph"]["nodes"][at]["target"] = name
        refused(file.content())


def test_operator_table() -> None:
    for text in (
        "aten.relu.default",
        "aten.__and__.Tensor",
        "aten._softmax.default",
        "aten.sym_size.int",
        "aten.batch_norm.default",
    ):
        assert str(operator_named(text)) == text
    assert all(
        callable(f) and n.partition(".")[0] in ("operator", "math", "builtins", "torch")
        for f, n in NAMES_OF_FUNCTIONS.items()
    )
    forbidden = {eval, exec, compile, open, getattr, setattr, __import__, input, torch.load}
    assert not forbidden & set(NAMES_OF_FUNCTIONS)


INJECTIONS = (
    f"x=__import__('builtins').{CANARY}",
    f'a"); __import__("builtins").{CANARY}; ("',
    f"x\n    __import__('builtins').{CANARY}\n    y",
    f"x: {CANARY}",
    "../x",
    "..",
    "a..b",
    "/etc/passwd",
    "x' : 0}), __import__('os'), ({'y",
    "__class__",
    "self.__class__",
    "lambda",
    "self",
    "torch",
    "pytree",
    "0.__func__",
    "x\ny",
)


def test_names_that_would_reach_the_compiled_source(saved: bytes, folder: Path) -> None:
    """Argument names, keyword names, layer paths and node names are written into the graph's
    Python source by torch.fx.
    """
    document = File(saved).document
    nodes = {n["op"]: i for i, n in enumerate(document["graph"]["nodes"])}

    def node(kind: str, field: str) -> tuple[Any, ...]:
        return "graph", "nodes", nodes[kind], field

    for text in INJECTIONS:
        keywords = {"tuple": [{"tuple": []}, {"dict": [[text, None]]}]}
        places_in_code: list[tuple[tuple[Any, ...], Any]] = [
            (("graph", "structure", "names"), [text]),
            (("graph", "structure", "inputs"), keywords),
            (node("call_function", "target"), text),
            (node("call_module", "target"), text),
            (node("placeholder", "target"), text),
            (node("call_function", "name"), text),
            (node("call_function", "kwargs"), {text: 0}),
            (("modules", "0", "kind"), text),
        ]
        for path, value in places_in_code:
            file = File(saved)
            file.document = replaced(document, path, value)
            refused(file.content())


def test_names_that_do_not_reach_the_compiled_source(
    saved: bytes, folder: Path, like: GraphModule
) -> None:
    """Those of modules, tensors and the class: refused, or without effect on the code."""
    document = File(saved).document
    module = {"kind": "Module", "args": {}, "training": False}
    tensor = {"same": "0.weight", "persistent": True}
    for text in INJECTIONS:
        for key, value in (
            ("modules", {**document["modules"], text: module}),
            ("tensors", {**document["tensors"], text: tensor}),
            ("class", text),
        ):
            file = File(saved)
            file.document = replaced(document, (key,), value)
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
    check(
        "two nodes",
        lambda f: f.document["graph"]["nodes"].insert(1, f.document["graph"]["nodes"][1]),
    )
    check(
        "comes later", lambda f: f.document["graph"]["nodes"][1].update(args=[{"node": "output"}])
    )
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


def broken(content: bytes) -> Iterator[bytes]:
    """The content cut short, and with single bits flipped."""
    generator = random.Random(0)
    yield from (content[: len(content) * part // 12] for part in range(12))
    for _ in range(60):
        changed = bytearray(content)
        changed[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        yield bytes(changed)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "old.pt", "x.npz", "packed.npz"])
def test_files_named_on_the_command_line(name: str, folder: Path) -> None:
    """Weights and arrays that are damaged either load or are named in a SourceError."""
    state, array = {"a": torch.arange(6.0), "b": torch.ones(2, 3)}, np.arange(12.0).reshape(3, 4)
    if name.endswith(".safetensors"):
        save_file(state, name)
    elif name.endswith(".pt"):
        torch.save(state, name, _use_new_zipfile_serialization=name != "old.pt")
    else:
        (np.savez if name == "x.npz" else np.savez_compressed)(name, x=array)

    def read() -> Any:
        path = Path(name)
        return (
            sources.arrays(path, sources.ImageOptions(), 2, None)
            if name.endswith(".npz")
            else sources.state_dict(path)
        )

    whole = Path(name).read_bytes()
    read()
    refusals = 0
    for content in broken(whole):
        Path(name).write_bytes(content)
        try:
            read()
        except SourceError as error:
            assert name in str(error)  # noqa: PT017
            refusals += 1
    assert refusals >= 12


def test_weights_that_are_a_pickle_run_nothing(folder: Path) -> None:
    torch.save({"weight": _Runs()}, "archive.pt")
    Path("plain.pt").write_bytes(pickle.dumps(_Runs()))
    np.savez("objects.npz", x=np.array([_Runs()], dtype=object))
    for name in ("archive.pt", "plain.pt"):
        with pytest.raises(SourceError, match=name):
            sources.state_dict(Path(name))
    with pytest.raises(SourceError, match="plain arrays"):
        sources.arrays(Path("objects.npz"), sources.ImageOptions(), 2, None)
