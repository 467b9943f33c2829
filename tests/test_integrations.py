"""Every example of docs/integrations.md runs as it stands there, after the page's opening lines."""

from pathlib import Path

import pytest

from tests.pages import run_section, sections

PAGE = Path(__file__).resolve().parent.parent / "docs" / "integrations.md"


@pytest.mark.slow
@pytest.mark.parametrize("heading", [h for h in sections(PAGE) if h])
def test_example(heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_section(PAGE, heading)
