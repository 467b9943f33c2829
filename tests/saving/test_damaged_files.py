"""Files cut short, changed or of another kind: refused in clear words, or the same model."""

import json
import pickle
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx import GraphModule

import fxprune
from fxprune.errors import StorageError
from tests.saving.hostile import CANARY, File, Runs, attempt, calls, places, refused, replaced


def test_truncated(saved: bytes, folder: Path) -> None:
    header = 8 + struct.unpack("<Q", saved[:8])[0]
    for at in {
        *range(12),
        *range(0, len(saved), 97),
        header - 1,
        header,
        header + 1,
        len(saved) - 1,
    }:
        refused(saved[:at])
    refused(saved + b"\0")


def test_pickles_are_not_opened(folder: Path) -> None:
    refused(pickle.dumps(Runs()), words="not a complete safetensors file")
    torch.save({"weight": Runs()}, "archive.pt")
    assert not (folder / "canary").exists()
    refused(Path("archive.pt").read_bytes(), words="not a complete safetensors file")


@pytest.mark.parametrize("part", ["fxprune", "plan", "report"])
def test_truncated_description(saved: bytes, folder: Path, part: str) -> None:
    """With a digest that fits what is left."""
    text = File(saved).header["__metadata__"][part]
    for at in (0, 1, len(text) // 3, len(text) // 2, len(text) - 1):
        file = File(saved)
        refused(file.content(**{part: text[:at]}), words="damaged")
        refused(file.content(**{part: text[:at] + "\0" + text[at:]}), words="damaged")


def test_headers_that_lie_about_the_tensors(saved: bytes, folder: Path) -> None:
    for size in (0, 1, 2**31, 2**63, 2**64 - 1):
        refused(struct.pack("<Q", size) + saved[8:], words="not a complete safetensors file")
    for change in (
        {"data_offsets": [0, 10**12]},
        {"data_offsets": [-4, 0]},
        {"data_offsets": [4, 0]},
        {"data_offsets": "../x"},
        {"shape": [10**9, 10**9]},
        {"shape": [-1]},
        {"shape": None},
        {"dtype": "I64"},
        {"dtype": "object"},
        {"dtype": None},
    ):
        file = File(saved)
        file.header["0.weight"] |= change
        refused(file.content())
    for name in (
        "../../0.weight",
        "/etc/passwd",
        "C:\\\\x",
        "..",
        "__class__",
        "0.weight\0",
        "a" * 10_000,
    ):
        file = File(saved)
        file.header[name] = file.header.pop("0.weight")
        refused(file.content(), words="described but missing")


def test_flipped_bytes(saved: bytes, folder: Path, like: GraphModule) -> None:
    generator = random.Random(0)
    header = 8 + struct.unpack("<Q", saved[:8])[0]
    places = [
        *range(16),
        *(generator.randrange(header) for _ in range(250)),
        *(generator.randrange(header, len(saved)) for _ in range(60)),
    ]
    for at in places:
        changed = bytearray(saved)
        changed[at] ^= 1 << generator.randrange(8)
        small = attempt(bytes(changed))
        if isinstance(small, GraphModule):
            assert small.code == like.code
            assert all(torch.equal(t, small.state_dict()[k]) for k, t in like.state_dict().items())


def test_a_newer_file_and_another_kind_of_file(saved: bytes, folder: Path) -> None:
    file = File(saved)
    file.document["version"] = 2
    refused(file.content(), words="Update fxprune")
    del file.header["__metadata__"]["fxprune"]
    text = json.dumps(file.header).encode()
    refused(struct.pack("<Q", len(text)) + text + file.rest, words="not written by fxprune.save")
    file.header["__metadata__"]["fxprune"] = "[" * 100_000
    text = json.dumps(file.header).encode()
    refused(struct.pack("<Q", len(text)) + text + file.rest, words="RecursionError")
    refused(b"PK\x03\x04 something else")
    refused(b"")
    with pytest.raises(StorageError, match="no such file"):
        fxprune.load("absent.safetensors")


WRONG: list[Any] = [
    None,
    -1,
    10**30,
    0.5,
    True,
    [],
    {},
    [[]],
    CANARY,
    "../../x",
    {"node": "x"},
    {"device": "no"},
]
"""Values of every type, for places that want another."""


@pytest.mark.slow
def test_wrong_types_everywhere(saved: bytes, folder: Path, like: GraphModule) -> None:
    """With digests that fit. What loads nevertheless has the right tensors, and only whitelisted
    code.
    """
    generator = random.Random(0)
    document = File(saved).document
    everywhere = places(document)
    for path in generator.sample(everywhere, min(len(everywhere), 400)):
        for value in generator.sample(WRONG, 3):
            file = File(saved)
            file.document = replaced(document, path, value)
            small = attempt(file.content())
            assert isinstance(small, str) or calls(small) <= calls(like)


@pytest.mark.parametrize("part", ["plan", "report"])
def test_wrong_types_in_plan_and_report(saved: bytes, folder: Path, part: str) -> None:
    generator = random.Random(0)
    document = json.loads(File(saved).header["__metadata__"][part])
    everywhere = places(document)
    for path in generator.sample(everywhere, min(len(everywhere), 60)):
        wrong: list[Any] = [None, {}, [[]], "x", [None], -1.5]
        for value in wrong:
            file = File(saved)
            file.header["__metadata__"][part] = json.dumps(replaced(document, path, value))
            small = attempt(file.content())
            if isinstance(small, GraphModule):
                str(fxprune.report(small))
                hash(fxprune.plan_of(small))
