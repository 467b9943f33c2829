"""Synthesized melodies, and a trained recurrent network on them."""

from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import recurrent
from benchmarks.datasets.melodies import BANDS, CLASSES, FRAMES, TONES, draw_melodies
from benchmarks.models.melody import CHECKPOINT, trained


def test_melodies_rise_and_fall_as_they_are_labeled() -> None:
    bands, contours = draw_melodies(300, torch.Generator().manual_seed(3))
    assert bands.shape == (300, BANDS, FRAMES)
    torch.testing.assert_close(bands.std((1, 2)), torch.ones(300))
    assert set(contours.tolist()) <= set(range(CLASSES))
    # All rises or all falls: the loudest band of the last tone is the higher or lower one.
    first, last = (bands[:, :, part].mean(2).argmax(1) for part in (slice(0, 3), slice(-3, None)))
    up, down = contours == CLASSES - 1, contours == 0
    assert TONES > 2
    assert float((last[up] > first[up]).float().mean()) > 0.8
    assert float((last[down] < first[down]).float().mean()) > 0.8


def test_the_trained_network_finds_contours() -> None:
    bands, contours = draw_melodies(200, torch.Generator().manual_seed(4))
    with torch.no_grad():
        found = trained()(bands).argmax(1)
    assert float((found == contours).float().mean()) > 0.95
    assert CHECKPOINT.stat().st_size < 1_000_000


@pytest.mark.slow
def test_the_command_writes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the beginnings of melodies: a trace runs the recurrent layers step by step."""

    def begin(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        bands, contours = draw_melodies(count, generator)
        return bands[..., : FRAMES // 6], contours

    monkeypatch.setattr(recurrent, "draw_melodies", begin)
    app = typer.Typer()
    app.command()(recurrent.main)
    out = tmp_path / "page.md"
    arguments = ["--flops", "0.7", "--seeds", "1", "--count", "60", "--tested", "200"]
    result = CliRunner().invoke(app, [*arguments, "--batch", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    text = out.read_text()
    assert "| 0.7 | `auto` |" in text
    assert "| 0.7 | `paper-uniform` |" in text
