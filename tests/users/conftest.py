"""The environment of all users, made once, and a folder for each."""

from pathlib import Path

import pytest

from tests.users.desk import Desk, copy_checkout, install, make_environment, shared


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fresh, with fxprune by `pip install .` in a copy of the checkout."""

    def make(folder: Path) -> None:
        make_environment(folder / "env")
        install(copy_checkout(folder / "checkout"), folder / "env")

    return shared(tmp_path_factory, "users", make) / "env"


@pytest.fixture
def desk(environment: Path, tmp_path: Path) -> Desk:
    """An empty folder and that environment."""
    return Desk(tmp_path, environment)
