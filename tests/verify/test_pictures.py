"""Small pictures of inputs, and the PNG files they become."""

import io

import pytest
import torch
from torch import Tensor

from fxprune.capture.batch import make_batch
from fxprune.verify.pictures import SIDE, picture_of


def test_a_color_image_as_a_file() -> None:
    image_files = pytest.importorskip("PIL.Image")
    wanted = torch.arange(3 * 8 * 10, dtype=torch.float32).view(3, 8, 10)
    found = picture_of(make_batch((torch.stack([wanted + 7, -wanted]),), {}), 0)
    assert found is not None
    assert (found.height, found.width, found.channels) == (8, 10, 3)
    read = image_files.open(io.BytesIO(found.png()))
    assert read.size == (10, 8)
    pixels = torch.tensor(list(read.tobytes()), dtype=torch.float32).view(8, 10, 3)
    torch.testing.assert_close(pixels, (255 * wanted / wanted.max()).round().movedim(0, 2))


def test_large_images_shrink_and_keep_their_proportions() -> None:
    found = picture_of(make_batch((torch.rand(1, 1, 200, 400),), {}), 0)
    assert found is not None
    assert (found.height, found.width, found.channels) == (SIDE // 2, SIDE, 1)
    assert len(found.pixels) == SIDE * SIDE // 2


def test_channels_may_come_last_and_a_blank_image_is_black() -> None:
    found = picture_of(make_batch((torch.full((1, 9, 8, 3), 5.0),), {}), 0)
    assert found is not None
    assert (found.height, found.width, found.channels) == (9, 8, 3)
    assert not any(found.pixels)


@pytest.mark.parametrize(
    "inputs",
    [
        torch.rand(2, 7),
        torch.rand(2, 4, 16, 16),
        torch.rand(2, 3, 4, 4),
        torch.zeros(2, 3, 16, 16, dtype=torch.long),
        torch.rand(1, 3, 16, 16).expand(2, -1, -1, -1)[:0],
    ],
    ids=["rows", "channels", "pixels", "integers", "none"],
)
def test_what_is_no_image_has_no_picture(inputs: Tensor) -> None:
    batch = make_batch((torch.zeros(2), inputs), {})
    assert picture_of(batch, 1) is None
