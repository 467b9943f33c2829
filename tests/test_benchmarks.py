"""The benchmarks' commands are where the documents say, and what they share stands below them."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "benchmarks").rglob("*.py"))
SHARED = [path for path in FILES if path.parent.name != "benchmarks"]
COMMANDS = {p.stem for p in (ROOT / "benchmarks").glob("*.py") if "__main__" in p.read_text()}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), *FILES]


def test_commands_that_documents_name_exist() -> None:
    named = {
        name for page in PAGES for name in re.findall(r"-m\s+benchmarks\.(\w+)", page.read_text())
    }
    assert len(named) > 10
    assert named <= COMMANDS


def test_every_folder_says_what_it_holds() -> None:
    for folder in {path.parent for path in FILES}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


@pytest.mark.parametrize("path", SHARED, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_what_is_shared_imports_no_command(path: Path) -> None:
    text = path.read_text()
    names = re.findall(r"^\s*(?:from|import) benchmarks\.(\w+)", text, re.MULTILINE)
    assert not set(names) & COMMANDS
