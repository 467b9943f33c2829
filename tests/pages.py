"""Pages whose sections are run one by one, each after the page's opening lines."""

import ast
import importlib
import importlib.util
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch


def sections(page: Path) -> dict[str, str]:
    """Heading -> its code; the opening lines under the empty heading."""
    parts = re.split(r"^## (.*)$", page.read_text(), flags=re.MULTILINE)
    found = dict(zip(["", *parts[1::2]], parts[::2], strict=True))
    return {
        heading: "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
        for heading, text in found.items()
    }


def imported(code: str) -> set[str]:
    """Packages that an example imports."""
    nodes = list(ast.walk(ast.parse(code)))
    names = [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
    names += [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    return {name.partition(".")[0] for name in names}


def run_section(page: Path, heading: str) -> None:
    """Run the opening lines and a section; skip it where what it needs is not installed."""
    parts = sections(page)
    code = parts[heading]
    assert code, f"{heading} shows no example"
    needed = imported(code) | ({"onnxscript"} if "torch.onnx" in code else set())
    missing = sorted(name for name in needed if importlib.util.find_spec(name) is None)
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    compiled = "torch.compile(" in code or "aoti_compile" in code
    if compiled and not any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl")):
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    if needed & {"torchvision", "timm", "lightning", "ultralytics"} and torchvision_is_there():
        importlib.import_module("benchmarks.models.torchvision_ops")
    names: dict[str, Any] = {"__name__": "page"}
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        exec(compile(parts[""], f"{page.name}: opening", "exec"), names)
        exec(compile(code, f"{page.name}: {heading}", "exec"), names)


def torchvision_is_there() -> bool:
    return importlib.util.find_spec("torchvision") is not None
