"""The documents speak of modules, files and pages that are there."""

import importlib
import importlib.util
import itertools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TO_BE_WRITTEN = {"passes/remove_dropout.py", "tests/passes/test_remove_dropout.py"}
"""By the reader of docs/writing-passes.md."""
pages = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
every = pytest.mark.parametrize(
    "page",
    [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*/*.md"))],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or what one holds.

    Commands are looked for and not imported: what they need beside fxprune may not be installed.
    """
    module, attributes = name, list[str]()
    while not is_module(module):
        module, _, attribute = module.rpartition(".")
        attributes.insert(0, attribute)
    held: object = importlib.import_module(module) if attributes else None
    for attribute in attributes:
        if not hasattr(held, attribute):
            return False
        held = getattr(held, attribute)
    return True


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pages
def test_names_in_the_package_exist(page: Path) -> None:
    dotted = r"(?<![\w./])(?:fxprune|benchmarks)(?:\.[A-Za-z_]\w*)+"
    names = set(re.findall(dotted, page.read_text()))
    assert [name for name in sorted(names) if not exists(name)] == []


@pages
def test_files_and_folders_exist(page: Path) -> None:
    places = r"`((?:fxprune|passes|benchmarks|tests|docs|changelog\.d|\.ci)/[\w./-]*)`"
    named = set(re.findall(places, page.read_text())) - TO_BE_WRITTEN
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@every
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    lost = []
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", prose(page)):
        target = page.parent / path if path else page
        if not target.exists() or anchor and anchor not in anchors(target):
            lost.append((path, anchor))
    assert lost == []


def prose(page: Path) -> str:
    """A page without its code."""
    return re.sub(r"(?ms)^ *```.*?^ *```|`[^`\n]+`", "", page.read_text())


def anchors(page: Path) -> set[str]:
    """What can stand behind `#` of a page: its headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"(?ms)^```.*?^```", "", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every
def test_lists_are_lists_on_the_site_too(page: Path) -> None:
    """Its Markdown needs an empty line before them."""
    item = r"- |\d+\. "
    assert [
        line
        for before, line in itertools.pairwise(prose(page).splitlines())
        if re.match(item, line) and before and not re.match(rf"{item}| ", before)
    ] == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name)
def test_every_page_is_linked_from_the_readme(page: Path) -> None:
    assert f"(docs/{page.name})" in (ROOT / "README.md").read_text()
