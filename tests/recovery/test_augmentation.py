"""What inputs are changed by while a model is trained."""

import pytest
import torch
from torch import Tensor, nn

from fxprune.capture.batch import make_batch
from fxprune.recovery.augmentation import (
    Augmentation,
    Partners,
    crop,
    draw_partners,
    flip,
    mix,
    read_augment,
    zoom,
)
from tests.nets import images, tiny


def test_flips_and_crops_keep_the_pixels() -> None:
    torch.manual_seed(0)
    pixels = torch.arange(2.0 * 28 * 30).reshape(1, 2, 28, 30).expand(40, -1, -1, -1)
    flipped = flip(pixels)
    straight = (flipped == pixels).flatten(1).all(1)
    assert 0 < int(straight.sum()) < 40
    assert torch.equal(flipped[~straight], pixels[~straight].flip(-1))
    shifted = crop(pixels)
    inner = shifted[:, :, 4:-4, 4:-4]
    offsets = (inner[:, 0, 0, 0] - pixels[0, 0, 4, 4]).long()
    rows, columns = (offsets + 32) // 30 - 1, (offsets + 32) % 30 - 2
    assert set(rows.tolist()) == set(columns.tolist()) == {-2, -1, 0, 1, 2}
    assert torch.equal(
        inner - inner[:, :1, :1, :1], (pixels - pixels[:, :1, :1, :1])[:, :, :20, :22]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_zoom_shows_a_part_of_the_image_and_keeps_its_form(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ramps = torch.stack([torch.linspace(0, 1, 30).expand(20, 30), torch.ones(20, 30)])
    ramps[1] *= torch.linspace(0, 1, 20)[:, None]
    made = zoom(ramps.expand(200, 2, 20, 30).to(dtype))
    assert made.shape == (200, 2, 20, 30)
    assert made.dtype == dtype
    across, down = (made[:, c].float().flatten(1) for c in (0, 1))
    spans = torch.stack([v.amax(1) - v.amin(1) for v in (across, down)], 1)
    assert 0.3 < float(spans.prod(1).min()) < 0.4
    assert float(spans.prod(1).max()) > 0.9
    assert float((spans[:, 0] / spans[:, 1]).max()) <= 1.36
    assert float((spans[:, 0] / spans[:, 1]).min()) >= 0.72
    least = across.amin(1)
    assert float(least.min()) < 0.02
    assert float(least.max()) > 0.2
    assert bool((made[:, 0].diff(dim=-1) >= 0).all())  # neither turned nor mirrored


def test_a_zoom_is_as_exact_as_its_images() -> None:
    pixels, made = torch.rand(4, 2, 9, 9, dtype=torch.float64), list[torch.Tensor]()
    for dtype in (torch.float64, torch.float32):
        torch.manual_seed(0)
        made.append(zoom(pixels.to(dtype)).double())
    exact, rounded = made
    assert 1e-9 < float((exact - rounded).abs().max()) < 1e-5


def test_mixing_is_between_two_examples() -> None:
    batch, share = make_batch((torch.eye(3),), {}), torch.tensor([0.0, 0.25, 1.0])
    partners = Partners(torch.tensor([1, 2, 0]), share, None, torch.zeros(3).bool())
    made = mix(batch, partners).args[0]
    torch.testing.assert_close(made, torch.tensor([[1, 0, 0], [0, 0.75, 0.25], [1.0, 0, 0]]))


def test_images_are_blended_or_get_a_part_of_another() -> None:
    torch.manual_seed(0)
    pixels = torch.arange(60.0)[:, None, None, None].expand(60, 2, 8, 6)
    batch = make_batch((pixels,), {})
    drawn = draw_partners(batch)
    made = mix(batch, drawn).args[0]
    other = drawn.index.float()
    own = torch.arange(60.0)
    torch.testing.assert_close(made.mean((1, 2, 3)), own + drawn.share * (other - own))
    flat = made.flatten(1)
    assert torch.equal(
        flat.amin(1) == flat.amax(1),
        ~drawn.pasted | (other == own) | (drawn.share == 0) | (drawn.share == 1),
    )
    assert 0 < int(drawn.pasted.sum()) < 60
    assert 0 < int((drawn.share == 0).sum()) < 60


@pytest.mark.parametrize(
    ("example", "steps"),
    [
        ((images(2),), ("flip", "crop", "mix")),
        ((torch.randn(2, 7),), ("mix",)),
        ((torch.randn(2, 7), torch.ones(2, 3).long()), ()),
        ((torch.randn(2, 7), torch.tensor([[0.0, -torch.inf]] * 2)), ()),
        ((torch.ones(2, 7).long(),), ()),
    ],
)
def test_automatic_augmentation_suits_the_inputs(
    example: tuple[Tensor, ...], steps: tuple[str, ...]
) -> None:
    assert read_augment("auto", nn.Identity(), make_batch(example, {})).steps == steps


def test_augmentation_by_the_callers_function() -> None:
    def louder(x: Tensor) -> Tensor:
        return 2 * x

    batch = make_batch((images(4),), {})
    made = Augmentation(tiny(), (louder,))(batch)
    assert made.partner is None
    assert torch.equal(made.batch.args[0], 2 * images(4))
