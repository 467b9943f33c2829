"""Several processes do what one does, and fail together."""

from pathlib import Path

import pytest
import torch

from tests.distributed.ranks import on_ranks
from tests.distributed.work import compress, everything


@pytest.fixture(scope="module")
def by_one() -> dict[str, str]:
    """What one process gives, with as many threads as each rank has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return compress(0, 1)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_two_ranks_give_the_same_bytes(by_one: dict[str, str], tmp_path: Path) -> None:
    for found in on_ranks(compress, 2, tmp_path / "ranks"):
        assert found == {name: by_one[name] for name in found}


@pytest.mark.slow
def test_three_ranks_give_the_same_bytes_and_fail_together(
    by_one: dict[str, str], tmp_path: Path
) -> None:
    for failed, found in on_ranks(everything, 3, tmp_path / "ranks"):
        assert found == by_one
        assert failed["loader"].startswith(
            "CalibrationError: Rank 2 of 3: The calibration loader, a Breaks, fails after 1 batches"
        )
        assert failed["decision"].startswith("UnsupportedError: Rank 2 of 3: decision=fails")
        assert failed["all"].startswith("BudgetError: ")
        assert "Rank" not in failed["all"]
        for name, what in (("weights", "the weights"), ("options", "seed")):
            assert f"Rank 1, 2 of 3 and rank 0 differ in {what}" in failed[name]
        assert len(failed["alone"]) == 64
