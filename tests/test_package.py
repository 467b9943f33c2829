"""The package holds everything once, wherever it is installed from, and its imports go one way."""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fxprune

ROOT = Path(__file__).resolve().parent.parent
PASSES = sorted(f"fxprune/passes/{p.name}" for p in (ROOT / "passes").glob("*.py"))


def run(*command: object, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged, the link included."""
    target = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in ("fxprune", "passes"):
        shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target / name)
    return target


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-build-isolation",
        "--no-deps",
        "-w",
        "wheels",
        ".",
        cwd=checkout,
    )
    (found,) = (checkout / "wheels").glob("*.whl")
    return found


def environment(folder: Path) -> Path:
    """A fresh environment that sees this one's packages but no editable install of fxprune; its
    interpreter.
    """
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(
        run(
            python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder
        ).strip()
    )
    (site / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


IMPORT = (
    "import fxprune, fxprune.passes, fxprune.cli, fxprune.demo.data as d; "
    "print(fxprune.passes.__file__); print(len(d.load().labels), "
    "fxprune.passes.ReduceChannels.__module__)"
)


@pytest.mark.slow
def test_wheel_installs_and_imports(wheel: Path, tmp_path: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert sorted(n for n in names if "passes/" in n) == PASSES
    for name in (
        "fxprune/demo/vgg.safetensors",
        "fxprune/demo/fashion_mnist.npz",
        "fxprune/demo/NOTICE",
        "fxprune/py.typed",
    ):
        assert names.count(name) == 1
    assert {n.split("/")[0] for n in names} == {
        "fxprune",
        f"fxprune-{wheel.name.split('-')[1]}.dist-info",
    }
    python = environment(tmp_path / "env")
    run(
        sys.executable,
        "-m",
        "pip",
        "-q",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=tmp_path,
    )
    where, rest = run(python, "-W", "ignore", "-c", IMPORT, cwd=tmp_path).splitlines()
    assert Path(where).is_relative_to(tmp_path)
    assert rest == "5000 fxprune.passes.reduce_channels"


@pytest.mark.slow
def test_wheel_holds_every_file_of_the_tree(wheel: Path) -> None:
    """`packages` in pyproject.toml is a list: a folder left out would vanish without a word."""
    names = zipfile.ZipFile(wheel).namelist()
    held = {name for name in names if name.endswith(".py")}
    assert held == {f"{module.replace('.', '/')}.py" for module, _ in sources()}


@pytest.mark.slow
def test_editable_install_finds_the_passes_once(checkout: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "env")
    options = ("--no-deps", "--no-index", "--no-build-isolation", "-e", checkout)
    run(sys.executable, "-m", "pip", "-q", "--python", python, "install", *options, cwd=tmp_path)
    where, rest = run(python, "-W", "ignore", "-c", IMPORT, cwd=tmp_path).splitlines()
    assert Path(where).resolve() == (checkout / "passes" / "__init__.py").resolve()
    assert rest == "5000 fxprune.passes.reduce_channels"


@pytest.mark.slow
def test_source_distribution_and_a_checkout_without_links(checkout: Path, tmp_path: Path) -> None:
    run(
        sys.executable,
        "-c",
        "from setuptools.build_meta import build_sdist as b; b('sdist')",
        cwd=checkout,
    )
    (archive,) = (checkout / "sdist").glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    (unpacked,) = (p for p in tmp_path.iterdir() if p.is_dir())
    held = [p.relative_to(unpacked).as_posix() for p in unpacked.rglob("passes/*.py")]
    assert sorted(held) == [p.removeprefix("fxprune/") for p in PASSES]
    assert not (unpacked / "fxprune" / "passes").exists()
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-build-isolation",
        "--no-deps",
        "-w",
        tmp_path,
        unpacked,
        cwd=tmp_path,
    )
    (built,) = tmp_path.glob("*.whl")
    assert sorted(n for n in zipfile.ZipFile(built).namelist() if "passes/" in n) == PASSES


def test_passes_refuse_another_name() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import passes"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "This package is fxprune.passes" in done.stderr


ROOMS = (
    "errors",
    "progress",
    "linalg",
    "graph",
    "rules",
    "capture",
    "label",
    "calibrate",
    "plans",
    "verify",
    "passes",
    "profile",
    "timing",
    "options",
    "session",
    "fit",
    "allocate",
    "handover",
    "saving",
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
