"""What `--groups` says, of every kind of data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

import fxprune
from fxprune.cli.groups import read_groups
from fxprune.cli.sources import ImageFolder, ImageOptions, data
from fxprune.errors import SourceError
from tests.cli.test_app import TINY, bad, good
from tests.nets import images

SCENES = [f"scene{at // 8}" for at in range(128)]


def keyed() -> list[dict[str, Any]]:
    """Dict batches that name their scenes."""
    return [
        {"x": part, "scene": SCENES[at * 32 : at * 32 + 32]}
        for at, part in enumerate(images(128).split(32))
    ]


def paired() -> list[tuple[Tensor, list[str]]]:
    """Batches beside their scenes."""
    return [(batch["x"], batch["scene"]) for batch in keyed()]


def second(batch: tuple[Tensor, list[str]]) -> list[str]:
    """The scenes of such a batch."""
    return batch[1]


HERE = "tests.cli.test_groups"
ONE_LABEL_EACH = ["ant", "ant", "bee", "bee", "cat", "cat"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two crops of each of three photographs, in folders of their own."""
    for at, name in enumerate(ONE_LABEL_EACH):
        path = tmp_path / "crops" / name / f"{name}_{at}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 12), (at, at, at)).save(path)
    return tmp_path / "crops"


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def folder(photos: Path, limit: int | None = None) -> ImageFolder:
    return ImageFolder(photos, ImageOptions(8), 4, limit)


def labels(text: str, photos: Path, limit: int | None = None) -> Any:
    return read_groups(text, str(photos), folder(photos, limit), limit)


@pytest.mark.parametrize(
    "cell",
    [
        lambda path, root: path.relative_to(root).as_posix(),
        lambda path, root: path.relative_to(root).with_suffix("").as_posix(),
        lambda path, root: path.relative_to(root.parent).as_posix(),
        lambda path, root: "./" + path.relative_to(root).as_posix(),
        lambda path, root: path.relative_to(root).as_posix().replace("/", "\\"),
        lambda path, root: path.as_posix(),
        lambda path, root: path.name,
        lambda path, root: path.stem,
    ],
    ids=["below", "stem below", "beside", "dot", "backslash", "absolute", "name", "stem"],
)
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_tables_name_images_as_people_do(photos: Path, cell: Any, suffix: str) -> None:
    mark = "," if suffix == "csv" else "\t"
    files = folder(photos).files
    rows = [mark.join((p.stem[:3], cell(p, photos), "odd")) for p in reversed(files)]
    named = table(photos.parent / f"index.{suffix}", mark.join(("photo", "file", "more")), *rows)
    assert labels(f"{named}:photo", photos) == ONE_LABEL_EACH
    assert labels(f"{named}:photo", photos, limit=3) == ["ant", "bee", "cat"]


def test_images_are_grouped_by_their_folders_and_paths(photos: Path) -> None:
    assert labels("folder", photos) == ONE_LABEL_EACH
    assert labels(r"([a-z]+)_\d", photos) == ONE_LABEL_EACH
    assert labels(r"^.", photos) == ["a", "a", "b", "b", "c", "c"]
    assert labels("", photos) is None


@pytest.mark.parametrize(
    ("lines", "column", "message"),
    [
        (["file,photo"], "photo", "name a column of .*index.csv.* it has no line"),
        (["file,photo", "ant_0.png,a"], "", "name a column .* it has file, photo"),
        (["file,photo", "ant_0.png,a"], "fotos", "name a column .* it has file, photo"),
        (["file,photo", "ant_0.png,a"], "photo", "names 5 of the 6 images, such as ant/ant_1.png"),
        (["file,photo", "ant_0.png,a", "b.png,"], "photo", "photo of .* is empty in line 3"),
        (["file,photo", "ant_0.png,a", "ant_0.png,b"], "photo", "two labels, a and b"),
        (["photo", "a"], "photo", "names 6 of the 6 images"),
    ],
)
def test_tables_that_do_not_fit(photos: Path, lines: list[str], column: str, message: str) -> None:
    index = table(photos.parent / "index.csv", *lines)
    with pytest.raises(SourceError, match=message):
        labels(f"{index}:{column}" if column else str(index), photos)


def test_names_that_two_images_have_name_neither(photos: Path) -> None:
    Image.new("RGB", (12, 12)).save(photos / "bee" / "ant_0.png")
    names = [f"{p.name},{p.stem[:3]}" for p in folder(photos).files]
    index = table(photos.parent / "index.csv", "file,photo", *names)
    with pytest.raises(SourceError, match="2 of the 7 images, such as ant/ant_0.png"):
        labels(f"{index}:photo", photos)


@pytest.mark.parametrize("text", ["missing.csv:photo", "(", "nowhere", "bee"])
def test_what_groups_no_image_is_said_with_what_does(photos: Path, text: str) -> None:
    with pytest.raises(SourceError, match=r"--groups"):
        labels(text, photos)


def stored(path: Path, **arrays: Any) -> str:
    np.savez(path, x=images(128).numpy(), **arrays)
    return str(path)


def test_arrays_are_grouped_by_another_array_or_a_table(tmp_path: Path) -> None:
    spec = stored(tmp_path / "data.npz", scene=np.array(SCENES), few=np.arange(3))
    loader = data(spec, ImageOptions())
    assert read_groups("scene", spec, loader) == SCENES
    assert read_groups("scene", spec, loader, limit=9) == SCENES[:9]
    index = table(tmp_path / "index.csv", "at,scene", *(f"{i},{s}" for i, s in enumerate(SCENES)))
    assert read_groups(f"{index}:scene", spec, loader) == SCENES
    for text, message in (
        ("few", "3 labels for 128 examples"),
        ("odd", r"\['x', 'scene', 'few'\]; name the labels of --groups one of odd"),
        ("x", r"the array x .* has the shape \(128, 3, 8, 8\)"),
    ):
        with pytest.raises(SourceError, match=message):
            read_groups(text, spec, loader, limit=2)


def test_loaders_are_grouped_by_a_key_a_function_or_a_table(tmp_path: Path) -> None:
    assert read_groups("scene", f"{HERE}:keyed", keyed()) == "scene"
    assert read_groups(f"{HERE}:second", f"{HERE}:paired", paired()) is second
    index = table(tmp_path / "i.csv", "scene", *SCENES)
    assert read_groups(f"{index}:scene", f"{HERE}:paired", paired(), limit=3) == SCENES
    with pytest.raises(SourceError, match="is no function of a batch"):
        read_groups(f"{HERE}:SCENES", f"{HERE}:paired", paired())


@pytest.mark.parametrize("way", ["keyed --groups scene", f"paired --groups {HERE}:second"])
def test_groups_reach_the_certificate(way: str) -> None:
    words = f"--data {HERE}:{way} --flops 0.6 --method uniform --json".split()
    found = fxprune.Report.from_json(good("compress", TINY, *words))
    assert any("the 128 calibration examples are 16 groups" in note for note in found.notes)
    assert found.agreement is not None
    assert found.agreement.examples == 24


def test_folders_are_certified_by_group(photos: Path) -> None:
    words = f"--data {photos} --size 8 --flops 0.6 --method magnitude".split()
    assert "6 calibration examples are 3 groups" in " ".join(
        good("compress", TINY, *words, "--groups", "folder").split()
    )
    assert "matches nothing in ant/ant_0.png" in bad("compress", TINY, *words, "--groups", "odd")
    words = f"--data {HERE}:keyed --flops 0.6 --groups odd".split()
    assert "is no key of the calibration batches" in bad("compress", TINY, *words)
