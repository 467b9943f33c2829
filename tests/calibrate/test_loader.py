"""What is left of neighboring batches is put together."""

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.calibrate.loader import Calibration
from tests.nets import images, tiny


def test_what_is_left_of_small_batches_is_put_together_in_order() -> None:
    x = images(60)
    chosen = np.zeros(60, dtype=bool)
    chosen[::3] = True
    found = list(Calibration(tiny(), list(x.split(8))).batches(chosen))
    assert [b.size for b in found[:-1]] == [8] * (len(found) - 1)
    torch.testing.assert_close(torch.cat([b.args[0] for b in found]), x[::3])


def test_batches_of_other_shapes_or_constants_stay_apart() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return x * scale

    one, two = torch.ones(()), torch.tensor(2.0)
    batches = [
        (images(4), one),
        (images(4, 1), one),
        (images(4, 2), two),
        (images(4, 3, size=6), two),
    ]
    found = list(Calibration(Scaled(), batches).batches(np.arange(16) % 2 == 0))
    assert [(b.size, float(b.args[1]), b.args[0].shape[-1]) for b in found] == [
        (4, 1.0, 8),
        (2, 2.0, 8),
        (2, 2.0, 6),
    ]
