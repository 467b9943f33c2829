"""Makes the documentation site of the pages of the repository: `mkdocs.yml` names this as its hook.

The pages are written for the repository, where README.md and CONTRIBUTING.md lie beside `docs/` and
links go to any file. Here they become pages of the site, links are turned to where their targets
lie there (or to the repository, for what is no page), the decision records get an index and the
changelog the fragments that are not released yet.
"""

import os
import posixpath
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
MOVED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "docs": "index.md",
    "docs/decisions": "decisions/index.md",
}
"""Where on the site the page of a file or folder of the repository is."""
FENCED = re.compile(r"(^ *```.*?^ *```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
INNER = re.compile(r"^ {2,3}(?=[-*] )", re.MULTILINE)
"""Before an entry of an inner list, which needs four blanks on the site."""
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take the addresses from pyproject.toml and complete the navigation."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    config.repo_url, config.site_url = urls["Source"], urls["Documentation"]
    config.repo_name = "Source"
    complete(config.nav or [])
    return config


def complete(nav: list[Any]) -> None:
    """List the decision records, and, at the end of the how-to pages, those that no one placed."""
    placed = set(re.findall(r"[\w-]+\.md", str(nav)))
    for section in nav:
        if "Decisions" in section:
            section["Decisions"] += ["decisions/index.md", *records_on_the_site()]
        if "How to" in section:
            section["How to"] += [p.name for p in sorted(DOCS.glob("*.md")) if p.name not in placed]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside `docs/` or in no file."""
    for source, place in MOVED.items():
        if source.endswith(".md"):
            files.append(File.generated(config, place, content=(ROOT / source).read_text()))
    files.append(File.generated(config, "decisions/index.md", content=list_of_records()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page, and add to the changelog what is not released yet."""
    place = page.file.src_uri
    source = {to: source for source, to in MOVED.items() if source.endswith(".md")}.get(
        place, f"docs/{place}"
    )
    if place == "changelog.md":
        markdown += "\n" + unreleased()
    # Odd pieces are code, in which nothing is a link.
    pieces = FENCED.split(markdown)
    pieces[::2] = [
        LINK.sub(lambda m: moved(m[1], source, place, str(config.repo_url)), INNER.sub("    ", p))
        for p in pieces[::2]
    ]
    return "".join(pieces)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of notebooks, which come as HTML.

    Raises:
        PluginError: there is no such page.
    """
    here = page.file

    def turned(link: re.Match[str]) -> str:
        place = posixpath.normpath(posixpath.join(posixpath.dirname(here.src_uri), link[1]))
        target = files.get_file_from_path(place)
        if target is None:
            raise PluginError(f"{here.src_uri} links to {link[1]}: there is no such page")
        return f'href="{target.url_relative_to(here)}{link[2]}"'

    notebook = here.src_uri.endswith(".py")
    return re.sub(r'href="(?!https?:)([^"#]+\.md)([^"]*)"', turned, html) if notebook else html


def moved(link: str, source: str, place: str, repository: str) -> str:
    """A link of a page on the site.

    Args:
        link: relative, as it stands in the repository.
        source: the page's file in the repository.
        place: the page on the site.
        repository: its address.
    """
    path, anchor = urlsplit(link).path, urlsplit(link).fragment
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    anchor = f"#{anchor}" if anchor else ""
    inside = MOVED.get(target) or target.removeprefix("docs/")
    if target in MOVED or target.startswith("docs/"):
        return posixpath.relpath(inside, posixpath.dirname(place) or ".") + anchor
    kind = "tree" if (ROOT / target).is_dir() else "blob"
    return f"{repository}/{kind}/main/{target}{anchor}"


def records() -> list[Path]:
    """The decision records, oldest first."""
    return sorted((DOCS / "decisions").glob("[0-9]*.md"))


def records_on_the_site() -> list[str]:
    """Their pages."""
    return [f"decisions/{path.name}" for path in records()]


def list_of_records() -> str:
    """The index of the decision records: each one's title, with a link."""
    titles = {path.name: path.read_text().partition("\n")[0].lstrip("# ") for path in records()}
    lines = [f"- [{title}]({name})" for name, title in titles.items()]
    return "\n".join(
        [
            "# Decisions",
            "",
            "Why things are as they are, one page each. A record is superseded by a later one, "
            "never edited.",
            "",
            *lines,
            "",
        ]
    )


def unreleased() -> str:
    """The changelog's fragments as towncrier will join them."""
    done = subprocess.run(
        [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "0"],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    return "## Not released yet\n" + done.stdout.partition("\n")[2]
