"""docs/architecture.md speaks of what is there."""

import importlib
import re
from pathlib import Path

import pytest

from benchmarks.architecture import STATIONS, draw

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "architecture.md").read_text()
NAMES = sorted(set(re.findall(r"`(fxprune(?:\.\w+)+)`", PAGE)))


def resolve(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("name", [*NAMES, *(f"fxprune.{s.call}" for s in STATIONS)])
def test_every_name_exists(name: str) -> None:
    assert callable(resolve(name)) or isinstance(resolve(name), dict)


def test_the_page_follows_the_picture() -> None:
    places = [
        PAGE.index(f"fxprune.{station.call}") for station in STATIONS if station.room != "session"
    ]
    assert places == sorted(places)


def test_the_picture_is_the_scripts() -> None:
    assert (DOCS / "architecture.svg").read_text() == draw()
