"""Wheels, sdists and editable installs hold everything once, and import."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.test_package import ROOT, sources

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
        "fxprune/handover/page.html.jinja",
        "fxprune/handover/report.html.jinja",
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
@pytest.mark.parametrize("links", [True, False])
def test_editable_install_finds_the_passes_once(
    links: bool, checkout: Path, tmp_path: Path
) -> None:
    if not links:
        checkout = shutil.copytree(checkout, tmp_path / "checkout", symlinks=True)
        # What git writes where the system has no links.
        link = checkout / "fxprune" / "passes"
        link.unlink()
        link.write_text("../passes")
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
