"""Tensors past a limit go to files, and come back as they were."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fxprune.calibrate import files as on_disk
from fxprune.calibrate.spill import Spill
from fxprune.errors import StorageError
from fxprune.resume.folder import LOCK, SCRATCH

LARGE = 1 << 14
"""float32 elements of a tensor that is worth a file."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK]


@pytest.mark.parametrize(
    "value",
    [
        torch.randn(64, 256),
        torch.randn(256, 64).T,
        torch.randn(4, 8, 64, 16).to(memory_format=torch.channels_last),
        torch.randn(LARGE).bfloat16().repeat(2),
        torch.randn(LARGE).half().repeat(2),
        torch.randn(LARGE, dtype=torch.float64),
        torch.arange(LARGE),
        torch.arange(LARGE) % 3 == 0,
        torch.randn(LARGE // 2, dtype=torch.complex64),
    ],
    ids=[
        "plain",
        "strided",
        "channels last",
        "bfloat16",
        "half",
        "double",
        "int",
        "bool",
        "complex",
    ],
)
def test_from_disk_comes_what_went(value: Tensor, folder: Path) -> None:
    store = Spill(0)
    item = store.put(value.repeat(4, *[1] * (value.dim() - 1)))
    assert len(files(folder)) == 1
    found = store.get(item)
    assert (found.dtype, found.shape[1:]) == (value.dtype, value.shape[1:])
    assert torch.equal(found, value.repeat(4, *[1] * (value.dim() - 1)))
    assert found.data_ptr() % 64 == 0
    store.drop(item)
    assert torch.equal(store.get(store.put(value.repeat(4, *[1] * (value.dim() - 1)))), found)
    assert len(files(folder)) == 1


def test_up_to_the_limit_nothing_is_copied(folder: Path) -> None:
    store = Spill(2 * 4 * LARGE)
    first, second, third = (torch.randn(LARGE) for _ in range(3))
    assert store.put(first).data_ptr() == first.data_ptr()
    item = store.put(second)
    assert not files(folder)
    assert torch.equal(store.get(store.put(third)), third)
    assert len(files(folder)) == 1
    store.drop(item)
    assert store.get(store.put(third)).data_ptr() == third.data_ptr(), "there is room again"


@pytest.mark.parametrize("value", [3, None, "text", (1, 2), torch.ones(()), torch.ones(10)])
def test_small_things_stay(value: Any, folder: Path) -> None:
    store = Spill(0)
    found = store.get(store.put(value))
    assert torch.equal(found, value) if isinstance(value, Tensor) else found is value
    assert not files(folder)


def test_what_is_kept_needs_no_gradient() -> None:
    value = torch.ones(3, requires_grad=True) * 2
    assert not Spill(1e9).put(value).requires_grad


def test_room_that_is_taken_counts() -> None:
    store = Spill(100)
    room = store.empty((5, 2), torch.ones(1, dtype=torch.float64))
    assert room is not None
    assert (room.shape, room.dtype) == ((5, 2), torch.float64)
    store = Spill(8 * LARGE)
    held = store.settle(torch.ones(LARGE))
    first, second = store.empty((LARGE,), torch.ones(1)), store.empty((LARGE,), torch.ones(1))
    assert store._held == 8 * LARGE, "the second is in a file"
    assert first is not None
    assert second is not None
    del held, second
    assert store._held == 4 * LARGE
    assert store.settle(first) is first


def test_room_counts_as_long_as_an_array_or_a_part_holds_it() -> None:
    store = Spill(8 * LARGE)
    array, part = store.settle(torch.ones(LARGE)).numpy(), store.settle(torch.ones(LARGE))[1:]
    assert store._held == 8 * LARGE
    del array
    assert store._held == 4 * LARGE
    del part
    assert store._held == 0


def test_what_is_mapped_needs_no_memory_and_leaves_no_file(folder: Path) -> None:
    store, value = Spill(0), torch.randn(LARGE, 2)
    settled = store.settle(value)
    assert torch.equal(settled, value)
    settled += value
    assert torch.equal(settled, 2 * value)
    assert store._held == 0
    assert not files(folder)


def test_a_disk_without_room_for_sums_is_an_error_in_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, start: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    store = Spill(0)
    with pytest.raises(StorageError, match="No space left.*Make room.*TMPDIR"):
        store.settle(torch.zeros(LARGE))
    assert not files(folder), "what could not be written takes no room"


def test_files_are_written_again_by_what_is_about_as_large(folder: Path) -> None:
    store, sizes = Spill(0), [4 * LARGE, 3 * LARGE, 6 * LARGE, LARGE]
    for size, count in zip(sizes, (1, 1, 1, 2), strict=True):
        value = torch.randn(size)
        item, other = store.put(value), None
        if count == 2:
            other = store.put(torch.randn(6 * LARGE))
        assert len(files(folder)) == count
        assert torch.equal(store.get(item), value)
        store.drop(item)
    assert other is not None
    held = [store.put(torch.full((size,), float(size))) for size in sizes]
    for size, item in zip(sizes, held, strict=True):
        assert torch.equal(store.get(item), torch.full((size,), float(size)))
    store.drop(item)
    with pytest.raises(KeyError):
        store.drop(item)  # by then another's file


def test_files_that_nobody_has_are_few(folder: Path) -> None:
    store = Spill(0)
    held = [store.put(torch.randn(LARGE)) for _ in range(12)]
    for left in range(11, -1, -1):
        store.drop(held.pop())
        assert left < len(files(folder)) <= left + max(1, left // 4)


def test_a_full_disk_takes_the_files_that_nobody_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, write = Spill(0), on_disk._fill
    store.drop(store.put(torch.randn(16 * LARGE)))

    def fill(path: Path, mode: str, data: memoryview) -> None:
        if len(files(folder)) > 0:
            raise OSError(28, "No space left on device")
        write(path, mode, data)

    monkeypatch.setattr(on_disk, "_fill", fill)
    value = torch.randn(LARGE)
    assert torch.equal(store.get(store.put(value)), value)
    with pytest.raises(StorageError, match="No space left"):
        store.put(value)


def test_files_go_with_the_store(folder: Path) -> None:
    store = Spill(0)
    store.put(torch.randn(LARGE))
    assert len(files(folder)) == 1
    del store
    assert not files(folder)


@pytest.mark.parametrize("limit", [1e9, 0.0], ids=["in memory", "on disk"])
def test_what_is_kept_is_a_copy(limit: float, folder: Path) -> None:
    store, value = Spill(limit), torch.randn(LARGE, 2)
    items = [store.keep(value), store.keep(value[:500, 1]), store.keep(value[:3])]
    before = [value.clone(), value[:500, 1].clone(), value[:3].clone()]
    value.zero_()
    for item, wanted in zip(items, before, strict=True):
        assert torch.equal(store.get(item), wanted)
    assert len(files(folder)) == (2 if limit == 0 else 0)


def test_small_tensors_that_are_kept_share_a_file(folder: Path) -> None:
    store = Spill(0)
    values = [torch.randn(1, 3, 16, 16).to(dtype) for dtype in (torch.float32, torch.half)] * 20
    items = [store.keep(value) for value in values]
    assert len(files(folder)) == 1
    for item, value in zip(items, values, strict=True):
        assert torch.equal(store.get(item), value)


def test_kept_inputs_leave_half_of_the_limit(folder: Path) -> None:
    store = Spill(8 * LARGE)
    first = torch.randn(LARGE)
    assert store.get(store.keep(first, copied=False)) is not None
    assert not files(folder)
    store.keep(first)
    assert len(files(folder)) == 1
    assert store.put(first).data_ptr() == first.data_ptr()


def test_from_disk_comes_the_layout_that_went() -> None:
    value = torch.randn(8, 8, 64, 16).to(memory_format=torch.channels_last)
    store = Spill(0)
    assert store.get(store.put(value)).stride() == value.stride()


def test_a_full_disk_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def write(self, data: object) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda self, mode="r": Full())
    monkeypatch.setattr("fxprune.calibrate.files.scratch_folder", lambda: (Path("x"), print))
    with pytest.raises(StorageError, match="No space left.*Make room.*TMPDIR"):
        Spill(0).put(torch.zeros(LARGE))


def test_what_killed_processes_left_is_removed(folder: Path) -> None:
    left, taken, other = (folder / name for name in (f"{SCRATCH}1", f"{SCRATCH}2", "elsewhere"))
    for path in (left, taken, other):
        path.mkdir()
        (path / "1").write_bytes(b"0")
    (left / LOCK).write_text("process 0")
    hours_ago = time.time() - 3600
    for path in (left, taken, other):
        os.utime(path, (hours_ago, hours_ago))
    store = Spill(0)
    own = store.put(torch.zeros(LARGE))
    assert not left.exists()  # locked by nobody
    assert (taken / "1").is_file()  # of a process that has not come to its lock
    assert (other / "1").is_file()
    second = Spill(0)
    second.put(torch.zeros(LARGE))
    os.utime(own.path.parent, (hours_ago, hours_ago))
    third = Spill(0)
    third.put(torch.zeros(LARGE))
    assert torch.equal(store.get(own), torch.zeros(LARGE))
