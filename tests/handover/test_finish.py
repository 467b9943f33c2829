"""Every example of docs/hand-over.md runs as it stands there, after the page's opening lines; the
trained networks trace and train.
"""

import ast
import importlib.util
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import fxprune
from benchmarks.models import nets
from fxprune.demo import data

PAGE = Path(__file__).resolve().parents[2] / "docs" / "hand-over.md"
COMPILED = ("torch.compile", "torch.compile with max-autotune", "AOTInductor")
OPTIONAL = ("onnxruntime", "torchao")


def examples() -> dict[str, str]:
    """Heading -> its code; the opening lines under the empty heading."""
    parts = re.split(r"^## (.*)$", PAGE.read_text(), flags=re.MULTILINE)
    sections = dict(zip(["", *parts[1::2]], parts[::2], strict=True))
    return {
        heading: "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
        for heading, text in sections.items()
    }


def needed(code: str) -> set[str]:
    """Optional packages that an example imports."""
    nodes = list(ast.walk(ast.parse(code)))
    names = [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
    names += [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    return {name.partition(".")[0] for name in names} & set(OPTIONAL)


@pytest.mark.slow
@pytest.mark.parametrize("heading", [h for h in examples() if h])
def test_example(heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = examples()[heading]
    assert code, f"{heading} shows no example"
    missing = [name for name in needed(code) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    if heading in COMPILED and not any(
        shutil.which(name) for name in ("g++", "clang++", "c++", "cl")
    ):
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        exec(compile(examples()[""], f"{PAGE.name}: opening", "exec"), names)
        exec(compile(code, f"{PAGE.name}: {heading}", "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20", "mobilenet"])
def test_the_trained_networks_trace_whole_and_train(name: str) -> None:
    images = data.load().calibration[:64]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = fxprune.compress(
            nets.trained(name), images, flops=0.5, method="magnitude", progress=False
        )
        whole = torch.compile(small, fullgraph=True, dynamic=True, backend="eager")
        program = torch.export.export(
            small, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},)
        ).module()
    with torch.no_grad():
        for n in (2, 5):
            torch.testing.assert_close(whole(images[:n]), small(images[:n]))
            torch.testing.assert_close(program(images[:n]), small(images[:n]))
    small.train()
    torch.nn.functional.cross_entropy(small(images), torch.arange(64) % 10).backward()
    # A parameter without a gradient would stop DistributedDataParallel.
    assert [n for n, p in small.named_parameters() if p.grad is None or not p.grad.any()] == []
