"""The documentation site, the changelog and the citation are whole. `.ci/run` builds the site."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import fxprune

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FRAGMENTS = [
    path
    for path in sorted((ROOT / "changelog.d").iterdir())
    if path.name not in PROJECT["tool"]["towncrier"]["ignore"]
]


def test_every_public_name_stands_in_the_reference() -> None:
    pages = "".join(p.read_text() for p in (ROOT / "docs" / "reference").glob("*.md"))
    shown = set(re.findall(r"^::: fxprune\.(\w+)$", pages, re.MULTILINE))
    assert shown == set(fxprune.__all__) - {"decisions"}
    rules = set(re.findall(r"^::: fxprune\.decisions\.(\w+)$", pages, re.MULTILINE))
    assert rules == set(fxprune.decisions.__all__)


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    """docs/pages.py."""
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("docs_pages", ROOT / "docs" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("link", "source", "place", "expected"),
    [
        ("docs/rules.md#a-rule", "README.md", "index.md", "rules.md#a-rule"),
        ("docs/decisions", "README.md", "index.md", "decisions/index.md"),
        ("CONTRIBUTING.md", "README.md", "index.md", "contributing.md"),
        ("../README.md", "docs/rules.md", "rules.md", "index.md"),
        ("../rules.md", "docs/reference/verbs.md", "reference/verbs.md", "../rules.md"),
        ("../tests/nets.py", "docs/rules.md", "rules.md", "HUB/blob/main/tests/nets.py"),
        ("../tests", "docs/rules.md", "rules.md", "HUB/tree/main/tests"),
        ("tradeoff.png", "docs/tradeoff.md", "tradeoff.md", "tradeoff.png"),
    ],
)
def test_links_are_turned(
    hook: ModuleType, link: str, source: str, place: str, expected: str
) -> None:
    assert hook.moved(link, source, place, "HUB") == expected


def test_pages_that_no_one_placed_are_found(hook: ModuleType) -> None:
    nav: list[object] = [{"Home": "index.md"}, {"How to": ["rules.md"]}, {"Decisions": []}]
    hook.complete(nav)
    names = {path.name for path in (ROOT / "docs").glob("*.md")} - {"rules.md"}
    assert nav[1] == {"How to": ["rules.md", *sorted(names)]}
    assert nav[2] == {"Decisions": ["decisions/index.md", *hook.records_on_the_site()]}


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda p: p.name)
def test_fragments_can_be_joined(fragment: Path) -> None:
    kinds = [kind["directory"] for kind in PROJECT["tool"]["towncrier"]["type"]]
    _, kind, ending = fragment.name.split(".")
    assert kind in kinds
    assert ending == "md"
    # Each becomes one entry of a list.
    assert not fragment.read_text().startswith(("-", "#"))


def test_the_changelog_holds_every_fragment() -> None:
    pytest.importorskip("towncrier")
    done = subprocess.run(
        [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(re.findall(r"^- ", done.stdout, re.MULTILINE)) >= len(FRAGMENTS)
    for fragment in FRAGMENTS:
        assert " ".join(fragment.read_text().split())[:60] in " ".join(done.stdout.split())


def test_the_citation_is_of_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {fxprune.__version__}\n" in citation
    assert f"\nrepository-code: {PROJECT['project']['urls']['Source']}\n" in citation
