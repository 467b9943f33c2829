"""One value and its tensors in one safetensors file, with digests that find damage.

The file is written piece by piece, so that no second copy of the tensors is in memory, and what
goes wrong with the disk is the system's own error.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fxprune.resume.folder import replacing

ENTRY, DIGEST = "fxprune-step", "sha256"
"""Metadata: the value as JSON with the digests of its tensors, and the digest of that."""
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}
"""What safetensors calls them."""
ALIGNED = 8
"""The header is filled up to a multiple of this many bytes."""


class DamagedFile(Exception):
    """A file is not what was written."""


def write_tensors(path: Path, document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a file that is there whole or not at all.

    Args:
        path: of the file.
        document: JSON.
        tensors: on the CPU, contiguous.

    Raises:
        OSError: it cannot be written.
        TypeError: a tensor has a dtype that the file does not know.
    """
    raw = {name: _bytes(tensor) for name, tensor in tensors.items()}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in raw.items()}
    entry = json.dumps({"value": document, "tensors": digests})
    header: dict[str, Any] = {"__metadata__": {ENTRY: entry, DIGEST: _digest(entry)}}
    at = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{tensor.dtype} cannot be kept")
        ends = [at, at + raw[name].nbytes]
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": ends,
        }
        at = ends[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNED)
    with replacing(path) as part, part.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for data in raw.values():
            file.write(data)


def read_tensors(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """What `write_tensors` wrote.

    Raises:
        DamagedFile: it is not complete, or was changed.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            entry = metadata[ENTRY]
            if metadata[DIGEST] != _digest(entry):
                raise DamagedFile("its description does not match its digest")
            document = json.loads(entry)
            # Copies: the file stays mapped into memory otherwise, and may change.
            tensors = {name: file.get_tensor(name).clone() for name in document["tensors"]}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFile(f"{type(error).__name__}: {error}") from error
    for name, tensor in tensors.items():
        if hashlib.sha256(_bytes(tensor)).hexdigest() != document["tensors"][name]:
            raise DamagedFile(f"tensor {name} does not match its digest")
    return document["value"], tensors


def _bytes(tensor: Tensor) -> memoryview:
    """A tensor's memory."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
