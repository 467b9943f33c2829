"""The rooms of the package: imports go one way, and every file fits in the head."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fxprune

ROOT = Path(__file__).resolve().parent.parent


ROOMS = (
    "errors",
    "resume",
    "forecast",
    "time_left",
    "bar",
    "progress",
    "linalg",
    "distributed",
    "graph",
    "rules",
    "capture",
    "label",
    "calibrate",
    "plans",
    "verify",
    "decisions",
    "passes",
    "profile",
    "timing",
    "options",
    "identity",
    "intake",
    "session",
    "fit",
    "allocate",
    "handover",
    "drawing",
    "saving",
    "recovery",
    "pipeline",
    "targets",
    "api",
    "__init__",
    "demo",
    "cli",
    "__main__",
)
"""Every folder and file of the package, from the ground up: each imports only those before it."""


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imported(path: Path) -> set[str]:
    """Everything a file imports, inside functions and for type checking too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= submodules if node.module == "fxprune" else {node.module}
            names |= {name for name in submodules if name in dict(sources())}
    return names


@cache
def sources() -> tuple[tuple[str, Path], ...]:
    linked = ROOT / "fxprune" / "passes"
    own = [p for p in sorted((ROOT / "fxprune").rglob("*.py")) if not p.is_relative_to(linked)]
    named = [(".".join(p.relative_to(ROOT).with_suffix("").parts), p) for p in own]
    passes = sorted((ROOT / "passes").glob("*.py"))
    return tuple(named) + tuple((f"fxprune.passes.{p.stem}", p) for p in passes)


def test_every_room_stands_in_the_list() -> None:
    assert {room(module) for module, _ in sources()} == set(ROOMS)


@pytest.mark.parametrize(
    ("module", "path"), sources(), ids=lambda v: v if isinstance(v, str) else ""
)
def test_imports_go_one_way(module: str, path: Path) -> None:
    own = room(module)
    inside = {name for name in imported(path) if name.split(".")[0] == "fxprune"}
    for name in inside:
        assert room(name) in ROOMS[: ROOMS.index(own) + 1], f"{module} imports {name}"
    if own == "linalg":
        assert not any(
            n.startswith(("torch.fx", "torch.nn", "torch.export")) for n in imported(path)
        )
    if own == "passes":
        assert "linalg" not in {room(name) for name in inside}
        numerics = ("torch.linalg", "scipy.linalg", "numpy.linalg")
        assert not any(n.startswith(numerics) for n in imported(path))


def test_no_two_files_import_each_other() -> None:
    known = dict(sources())
    graph = {module: imported(path) & set(known) - {module} for module, path in known.items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_no_folder_bears_the_name_of_a_public_function() -> None:
    folders = {p.name for p in (ROOT / "fxprune").iterdir() if p.is_dir()}
    assert not folders & set(fxprune.__all__)


def written() -> tuple[tuple[str, Path], ...]:
    """Every file of the repository: the package's, the benchmarks', the tests'."""
    others = [
        p for folder in ("benchmarks", "tests") for p in sorted((ROOT / folder).rglob("*.py"))
    ]
    return sources() + tuple((p.relative_to(ROOT).as_posix(), p) for p in others)


@pytest.mark.parametrize(
    ("module", "path"), written(), ids=lambda v: v if isinstance(v, str) else ""
)
def test_files_and_functions_fit_in_the_head(module: str, path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300, f"{module} has more than 300 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno:
            lines = node.end_lineno - node.lineno + 1 - docstring_lines(node)
            assert lines <= 50, f"{module}.{node.name} has {lines} lines"


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    return (
        first.end_lineno - first.lineno + 1 if ast.get_docstring(node) and first.end_lineno else 0
    )
