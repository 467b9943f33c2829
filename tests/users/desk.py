"""A user's desk: a folder outside the checkout, and an environment that `pip install .` filled."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGED = ("fxprune", "passes", "pyproject.toml", "README.md", "LICENSE")
"""What of a checkout goes into a package."""
OWN = ("fxprune", "__editable__", "_fxprune")
"""How the entries begin by which this environment finds fxprune."""
UNFIT = ("torchvision",)
"""Not every torch here has a torchvision that fits it, and no path needs one."""
WAIT = 300
"""Seconds until another worker has made what is shared."""


@dataclass(frozen=True)
class Ran:
    """What a command left: its streams and exit status."""

    out: str
    errors: str
    status: int

    @property
    def next(self) -> list[str]:
        """The words of the command that it says to type next."""
        (line,) = [text for text in self.errors.splitlines() if text.startswith("Next: ")]
        return shlex.split(line.removeprefix("Next: "))

    @property
    def json(self) -> dict[str, Any]:
        """What it printed, read."""
        found: dict[str, Any] = json.loads(self.out)
        return found


@dataclass(frozen=True)
class Desk:
    """Where a user works.

    Attributes:
        folder: the current one.
        environment: that fxprune is installed in.
    """

    folder: Path
    environment: Path

    def fxprune(self, *words: object, status: int = 0) -> Ran:
        """A command of fxprune, as the installed program."""
        return self.run(programs(self.environment) / "fxprune", *words, status=status)

    def python(self, script: str, *options: str) -> str:
        """A script's output."""
        (self.folder / "script.py").write_text(script)
        return self.run(interpreter(self.environment), *options, "script.py").out

    def run(self, *words: object, status: int = 0) -> Ran:
        """A command in the folder, which knows nothing of the checkout."""
        done = run(*words, folder=self.folder)
        assert done.status == status, f"{words}\n{done.out}\n{done.errors}"
        return done


def run(*words: object, folder: Path) -> Ran:
    """A command with what the caller's environment says of Python left out."""
    own = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE")
    known = {key: value for key, value in os.environ.items() if key not in own}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=known | {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    return Ran(done.stdout, done.stderr, done.returncode)


def programs(environment: Path) -> Path:
    """Where an environment's programs are."""
    return environment / ("Scripts" if os.name == "nt" else "bin")


def interpreter(environment: Path) -> Path:
    """Its Python."""
    return programs(environment) / "python"


def make_environment(folder: Path) -> None:
    """A fresh environment that holds this one's packages as links, so that nothing is downloaded,
    but neither fxprune nor what finds it.
    """
    venv.create(folder, with_pip=False)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith((*OWN, *UNFIT)) and entry.name != "__pycache__":
            place = Path(paths["purelib"]) / entry.name
            if not place.exists():
                place.symlink_to(entry)
                share_bytecode(entry, place)


def share_bytecode(package: Path, link: Path) -> None:
    """Where bytecode lies in a folder of its own, by path, let both paths find the same."""
    if sys.pycache_prefix is None or not package.is_dir():
        return
    kept, linked = (Path(sys.pycache_prefix, *path.parts[1:]) for path in (package, link))
    kept.mkdir(parents=True, exist_ok=True)
    linked.parent.mkdir(parents=True, exist_ok=True)
    linked.symlink_to(kept)


def install(checkout: Path, environment: Path, *options: str) -> None:
    """`pip install` of a checkout, offline."""
    quiet = ("-q", "--no-deps", "--no-index", "--no-build-isolation")
    python = interpreter(environment)
    words = (sys.executable, "-m", "pip", "--python", python, "install", *quiet, *options, ".")
    done = run(*words, folder=checkout)
    assert done.status == 0, done.errors


def copy_checkout(target: Path, names: tuple[str, ...] = PACKAGED) -> Path:
    """Files and folders of the checkout, without what is built there."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=ignore)
        else:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that is made once, by whichever of the test processes asks first."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done, failed = base / name, base / f"{name}.done", base / f"{name}.failed"
    try:
        folder.mkdir()
    except FileExistsError:
        until = time.monotonic() + WAIT
        while not done.exists():
            assert not failed.exists(), f"making {name} failed in another process"
            assert time.monotonic() < until, f"{name} is not made"
            time.sleep(0.1)
        return folder
    try:
        make(folder)
    except BaseException:
        failed.touch()
        raise
    done.touch()
    return folder
