"""Every example of docs/rules.md runs as it stands there and prints what it says."""

import re
from pathlib import Path
from typing import Any

import pytest

from fxprune.rules.registry import _RULES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rules.md"


def test_the_page_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.setattr("fxprune.rules.registry._RULES", dict(_RULES))
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    said = [comment for _, comment in re.findall(r"^print\((.*)\)  # (.*)$", blocks[0], re.M)]
    assert capsys.readouterr().out.splitlines() == said
