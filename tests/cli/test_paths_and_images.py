"""What the command line finds before the work, and images of more than eight bits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fxprune
from fxprune.cli import sources
from fxprune.errors import SourceError
from tests.cli.test_app import LOADER, TINY, bad

pillow = pytest.importorskip("PIL.Image")


def test_a_folder_that_cannot_be_made_is_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(fxprune, "compress", work)
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "plan.json").mkdir(parents=True)
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "taken"):
        assert f"--out {out}" in bad("compress", TINY, "--data", LOADER, "--out", out)


def test_nothing_is_left_where_the_work_fails(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    bad("compress", TINY, "--data", LOADER, "--flops", "7", "--out", out)
    assert not (tmp_path / "a").exists()


RAMP = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ((RAMP * 65535).astype(np.uint16), "deep.png"),
        ((RAMP * 65535).astype(np.uint16), "deep.tif"),
        (RAMP, "unit.tif"),
        (RAMP * 255, "bytes.tif"),
        (RAMP * 65535, "deep_floats.tif"),
    ],
)
@pytest.mark.parametrize("gray", [False, True])
def test_deep_images_keep_their_shades(
    tmp_path: Path, values: np.ndarray, name: str, gray: bool
) -> None:
    pillow.fromarray(values).save(tmp_path / name)
    options = sources.ImageOptions(8, gray, (0.0,), (1.0,)) if gray else sources.ImageOptions(8)
    (found,) = sources.ImageFolder(tmp_path, options, 4, None)
    assert found.shape == (1, 1 if gray else 3, 8, 8)
    if gray:
        torch.testing.assert_close(found[0, 0], torch.from_numpy(RAMP), atol=1e-4, rtol=0)
    assert found.unique().numel() >= 64


def test_values_of_no_known_range_are_refused(tmp_path: Path) -> None:
    pillow.fromarray(RAMP - 0.5).save(tmp_path / "negative.tif")
    with pytest.raises(SourceError, match=r"holds values from -0\.5 to 0\.5\..* scale them"):
        list(sources.ImageFolder(tmp_path, sources.ImageOptions(8), 4, None))
