"""Several processes do what one does, and fail together."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from fxprune import identity
from fxprune.errors import UnsupportedError
from tests.distributed.ranks import on_ranks
from tests.distributed.work import compress, everything

NO_CHECKPOINT = (
    "checkpoint='nowhere/at/all': 3 processes compress together, and their steps are not kept yet. "
    "Leave checkpoint= out, or compress in one process."
)


@pytest.fixture(scope="module")
def by_one() -> dict[str, str]:
    """What one process gives."""
    return compress(0, 1)


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
        assert failed["checkpoint"] == "UnsupportedError: " + NO_CHECKPOINT
        assert len(failed["alone"]) == 64


def test_steps_of_several_ranks_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "current", lambda: SimpleNamespace(size=2))
    with pytest.raises(UnsupportedError, match="2 processes compress together"):
        identity.open_checkpoint(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with identity.open_checkpoint(None) as steps:
        assert steps.folder is None
