"""Names that would become code: refused in clear words; none runs anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from fxprune.saving.operators import NAMES_OF_FUNCTIONS, operator_named
from tests.saving.hostile import CANARY, File, attempt, calls, nested, refused, replaced

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
