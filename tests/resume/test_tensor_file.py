"""Files of tensors: safetensors, whole or recognized as damaged."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fxprune.resume.tensor_file import DTYPES, DamagedFile, read_tensors, write_tensors

TENSORS = {
    "0": torch.arange(12.0).reshape(3, 4),
    "1": torch.zeros(0, 2),
    "2": torch.tensor(7),
    **{str(dtype): torch.ones(3, dtype=dtype) for dtype in DTYPES},
}
DOCUMENT = {"any": ["JSON", 1.5, None]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "step.safetensors"
    write_tensors(path, DOCUMENT, TENSORS)
    return path


def test_what_was_written_is_read_here_and_by_safetensors(file: Path) -> None:
    document, tensors = read_tensors(file)
    assert document == DOCUMENT
    for found in (tensors, load_file(file)):
        assert found.keys() == TENSORS.keys()
        for name, tensor in TENSORS.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)


def test_cut_or_changed_anywhere_it_is_damaged(file: Path) -> None:
    data = file.read_bytes()
    for at in range(0, len(data), 37):
        file.write_bytes(data[:at])
        with pytest.raises(DamagedFile):
            read_tensors(file)
    missed = 0
    for at in range(0, len(data), 31):
        changed = bytearray(data)
        changed[at] ^= 1
        file.write_bytes(changed)
        try:
            document, tensors = read_tensors(file)
        except DamagedFile:
            continue
        # A space more or less between the words of the header says the same.
        missed += 1
        assert document == DOCUMENT
        assert all(torch.equal(tensors[name], t) for name, t in TENSORS.items())
    assert missed <= 2


def test_a_file_that_cannot_be_written_leaves_the_old_one(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()

    def fails(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(OSError, match="No space left"):
        write_tensors(file, {}, {})
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]
