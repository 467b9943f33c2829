"""Several processes do what one does, and fail together."""

from pathlib import Path

import pytest

from tests.distributed.ranks import on_ranks
from tests.distributed.work import compress, everything


@pytest.fixture(scope="module")
def by_one() -> dict[str, str]:
    """What one process gives."""
    return compress(0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_give_the_same_bytes_and_fail_together(
    ranks: int, by_one: dict[str, str], tmp_path: Path
) -> None:
    for rank, (failed, found) in enumerate(on_ranks(everything, ranks, tmp_path / "ranks")):
        assert found == by_one
        last, others = f"Rank {ranks - 1} of {ranks}: ", ", ".join(map(str, range(1, ranks)))
        assert failed["loader"].startswith(f"CalibrationError: {last}The calibration loader")
        assert "the disk is gone" in failed["loader"]
        assert failed["decision"].startswith(f"UnsupportedError: {last}decision=fails")
        assert failed["all"].startswith("BudgetError: ")
        assert "Rank" not in failed["all"]
        for name, what in (("weights", "the weights"), ("options", "seed")):
            assert f"Rank {others} of {ranks} and rank 0 differ in {what}" in failed[name]
        assert len(failed["alone"]) == 64, rank
