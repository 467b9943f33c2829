"""Every example of README.md and docs/ runs as it stands there, each page in the order of the page.

Sybil finds the blocks. What cannot run here has `<!--- skip: next "why" -->` before it, and is
counted in SKIPPED. Pages whose examples need more than the names below have a test of their own.
"""

import importlib
import importlib.util
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sybil import Document, Example, Sybil
from sybil.example import SybilFailure
from sybil.parsers.markdown import CodeBlockParser, SkipParser
from torch import nn
from typer.testing import CliRunner

import fxprune
from fxprune.cli.app import app
from fxprune.demo import data

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = {
    "hand-over.md": "handover/test_finish.py",
    "integrations.md": "test_integrations.py",
    "latency.md": "timing/test_latency.py",
    "rules.md": "rules/test_documentation.py",
    "saving.md": "saving/test_storage.py",
    "transformers.md": "test_transformers.py",
    "writing-passes.md": "passes/test_writing_passes.py",
}
"""Pages whose examples another test runs."""
SKIPPED = {"README.md": 2, "large.md": 2, "recover.md": 1, "scale.md": 1}
"""Blocks that a page leaves out, with its reasons."""
SHORTER = {
    "minutes=10": "steps=2",
    "--minutes 10": "--steps 2",
    "epochs, alpha = 30": "epochs, alpha = 1",
    "fxprune bench": "fxprune bench --rounds 2 --batch 1",
    "images = data.load().calibration": "images = data.load().calibration[:400]",
    "tested = data.load().images": "tested = data.load().images[:500]",
    "budgets=(0.7, 0.5, 0.35)": "budgets=(0.7, 0.5)",
}
"""Training and measuring are cut short, and the demo's images and sizes are fewer."""
MODELS = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, 4), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5), nn.LogSoftmax(1),
    )
"""
"""What the command lines call my_package.models."""


def shortened(code: str) -> str:
    for long, short in SHORTER.items():
        code = code.replace(long, short)
    return code


def run_python(example: Example) -> None:
    line = example.line + example.parsed.line_offset
    source = "\n" * line + shortened(example.parsed)
    exec(compile(source, example.path, "exec"), example.namespace)


def run_console(example: Example) -> None:
    """Each command of fxprune in this process, where what it needs (the package of its model, the
    writer of its output) is installed; a block holds no other ones.
    """
    for line in shortened(example.parsed).replace("\\\n", " ").splitlines():
        program, *arguments = shlex.split(line, comments=True) or [""]
        if not program:
            continue
        assert program == "fxprune", f"{line}: not a command of fxprune; skip it with a reason"
        needed = {a.partition(".")[0].partition(":")[0] for a in arguments if ":" in a}
        needed |= {"onnxscript"} if "onnx" in arguments else set()
        if any(importlib.util.find_spec(package) is None for package in needed):
            continue
        if "torchvision" in needed:
            importlib.import_module("benchmarks.models.torchvision_ops")
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{line}: {result.output}"


def blocks(page: Path) -> Document:
    parsers: list[Any] = [
        CodeBlockParser("python", run_python),
        CodeBlockParser("console", run_console),
        SkipParser(),
    ]
    return Sybil(parsers).parse(page)


def examples(page: Path) -> list[Example]:
    return list(blocks(page).examples())


def code(page: Path) -> list[str]:
    return re.findall(r"^ *```(?:python|console)\n", page.read_text(), re.MULTILINE)


RUN = [page for page in PAGES if code(page) and page.name not in ELSEWHERE]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What the pages take for given: a model, examples, and files in the current folder. The demo
    runs on a part of its images.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()
    (tmp_path / "my_package" / "models.py").write_text(MODELS)
    made: dict[str, object] = {}
    exec(MODELS, made)
    model = made["make"]()  # type: ignore[operator]
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    noise = torch.Generator().manual_seed(0)
    (tmp_path / "images").mkdir()
    for i in range(60):
        pixels = torch.randint(0, 128, (224, 224, 3), dtype=torch.uint8, generator=noise)
        pixels += torch.randint(0, 128, (3,), dtype=torch.uint8, generator=noise)
        Image.fromarray(pixels.numpy()).save(tmp_path / "images" / f"{i}.png")
    colors = [3 * torch.randn(50, 3, 1, 1, generator=noise) for _ in range(4)]
    batches = [color + torch.randn(50, 3, 32, 32, generator=noise) for color in colors]
    labels = [torch.randint(0, 5, (50,), generator=noise) for _ in range(4)]
    held = data.load()
    part = data.DemoData(held.calibration[:100], held.images[:200], held.labels[:200])
    monkeypatch.setattr("fxprune.demo.run.load", lambda: part)
    return {
        "torch": torch,
        "nn": nn,
        "fxprune": fxprune,
        "model": model.eval(),
        "calib_loader": batches,
        "train_loader": list(zip(batches, labels, strict=True)),
        "example": batches[0][:2],
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", RUN, ids=lambda p: p.name)
def test_the_page_runs(page: Path, desk: dict[str, object]) -> None:
    document = blocks(page)
    document.namespace.update(desk)
    outcomes = Counter[str]()
    with torch.random.fork_rng():
        for example in document.examples():
            try:
                example.evaluate()
            except SkipTest:
                outcomes["skipped"] += 1
            except SybilFailure as failure:
                pytest.fail(f"{page.name}:{example.line}: {failure}")
            else:
                outcomes["run"] += 1
    assert outcomes["skipped"] == SKIPPED.get(page.name, 0)
    assert outcomes["run"] > 0


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_sybil_sees_every_block(page: Path) -> None:
    directives = len(re.findall(r"^<!--+ skip:", page.read_text(), re.MULTILINE))
    assert len(examples(page)) == len(code(page)) + directives
    assert directives == SKIPPED.get(page.name, 0)


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_the_other_pages_have_a_test(name: str) -> None:
    assert name in (ROOT / "tests" / ELSEWHERE[name]).read_text()
