"""A loader read once and handed out again and again: batches cut, put together, and refused."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fxprune.calibrate.loader import Calibration
from fxprune.errors import CalibrationError
from tests.nets import images, tiny


class Takes(nn.Module):
    """Takes what the tests give."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_what_is_left_of_small_batches_is_put_together_in_order() -> None:
    x = images(60)
    chosen = np.zeros(60, dtype=bool)
    chosen[::3] = True
    found = list(Calibration(tiny(), list(x.split(8))).batches(chosen))
    assert [b.size for b in found[:-1]] == [8] * (len(found) - 1)
    torch.testing.assert_close(torch.cat([b.args[0] for b in found]), x[::3])


def test_batches_of_a_fixed_size_are_filled_up_before_copies_are_taken() -> None:
    x = images(60)
    chosen = torch.rand(60, generator=torch.Generator().manual_seed(0)).numpy() < 0.6
    read = Calibration(tiny(), list(x.split(4)))
    read.exact = 4
    found = list(read.batches(chosen))
    assert [b.size for b in found] == [4] * math.ceil(chosen.sum() / 4)
    assert [b.padding for b in found[:-1]] == [0] * (len(found) - 1)
    own = torch.cat([b.args[0][: b.own] for b in found])
    torch.testing.assert_close(own, x[torch.from_numpy(chosen)])


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


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.integers(1, 12),
    st.randoms(use_true_random=False),
)
def test_every_chosen_example_comes_once_in_order(
    sizes: list[int], chunk: int, random: Any
) -> None:
    """However the loader is cut; no batch is larger than asked for or than the loader's."""
    total = sum(sizes)
    x = torch.arange(total, dtype=torch.float32)[:, None]
    calibration = Calibration(Takes(), list(x.split(sizes)), chunk)
    assert calibration.size == total
    chosen = np.array([random.random() < 0.6 for _ in range(total)])
    for wanted, found in (
        (x[torch.from_numpy(chosen)], list(calibration.batches(chosen))),
        (x, list(calibration.batches())),
        (x, list(calibration.batches())),
    ):
        assert all(1 <= batch.size <= min(chunk, max(sizes)) for batch in found)
        assert torch.equal(torch.cat([x[:0], *(batch.args[0] for batch in found)]), wanted)


def test_one_tensor_or_dict_is_the_only_batch() -> None:
    x = images(5)
    for loader in (x, {"x": x}, [x], [{"x": x}], [(x, torch.arange(5))]):
        calibration = Calibration(tiny(), loader)
        assert calibration.size == 5
        (batch,) = calibration.batches()
        assert torch.equal(batch.tensors()[0], x)
        assert torch.equal(calibration.example.tensors()[0], x[:2])


def test_a_changed_chunk_counts_from_the_next_reading() -> None:
    calibration = Calibration(Takes(), torch.ones(10, 2))
    assert [b.size for b in calibration.batches()] == [10]
    calibration.chunk = 4
    assert [b.size for b in calibration.batches()] == [4, 4, 2]


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (7, "is a int, which cannot be iterated"),
        ([], "yields no example"),
        ([torch.ones(0, 2)], "yields no example"),
        ([torch.ones(2, 2), torch.ones(2, 2, 2)], r"from example 2 has a tensor \(2, 2, 2\)"),
        (
            [torch.ones(2, 2), torch.ones(2, 2).double()],
            r"from example 2 has .* torch\.float64, the first",
        ),
        (
            [torch.ones(2, 2), torch.full((1, 2), torch.inf)],
            r"from example 2 holds NaN or infinite values in 2\. Clean",
        ),
        (
            [torch.ones(3, 2), torch.full((9, 2), math.nan).index_fill_(0, torch.tensor(0), 1)],
            r"from example 3 holds NaN or infinite values in 4, 5, 6, 7, 8 and 3 more\. Clean",
        ),
        ([3], "A calibration batch is a int"),
    ],
)
def test_what_cannot_be_read_is_refused(loader: Any, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        Calibration(Takes(), loader)
