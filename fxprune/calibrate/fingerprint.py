"""Fingerprints of examples: identical inputs have the same."""

from base64 import b64decode, b64encode
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fxprune.calibrate.joined import Sizes, has_rows, sizes_of
from fxprune.capture.batch import Batch

Kind = tuple[Sizes, bytes, tuple[str, ...]]
LENGTH = 16
"""Bytes of a fingerprint: among 10^9 examples two others share one with probability 10^-21."""
PACKED = 8
"""Bytes of one that are enough to know an example again."""


def pack(marks: Iterable[bytes]) -> str:
    """Fingerprints as text, each once."""
    return b64encode(b"".join(sorted({mark[:PACKED] for mark in marks}))).decode()


def unpack(text: str) -> frozenset[bytes]:
    """What `pack` wrote.

    Raises:
        ValueError: something else.
    """
    raw = b64decode(text, validate=True)
    if len(raw) % PACKED:
        raise ValueError(f"{len(raw)} bytes are no fingerprints")
    return frozenset(raw[at : at + PACKED] for at in range(0, len(raw), PACKED))


def fingerprints(batch: Batch) -> list[bytes]:
    """One for each example of a call, of what the model reads: its rows, and what all share."""
    leaves = pytree.tree_leaves((batch.args, batch.kwargs))
    rows = [t for t in leaves if has_rows((t,), (batch.size,))]
    shared = _shared(batch)
    tables = [_flat(t.reshape(batch.size, -1)) for t in rows if t.numel()]
    found = []
    for number in range(batch.size):
        mark = shared.copy()
        for table in tables:
            mark.update(table[number])
        found.append(mark.digest())
    return found


def kind_of(batch: Batch) -> Kind:
    """What two calls have in common that can be put together: sizes, what all examples share, and
    devices.
    """
    return sizes_of(batch), _shared(batch).digest(), tuple(str(t.device) for t in batch.tensors())


def _shared(batch: Batch) -> "blake2b":
    shared = blake2b(digest_size=LENGTH)
    for leaf in pytree.tree_leaves((batch.args, batch.kwargs)):
        shared.update(_header(leaf))
        if isinstance(leaf, Tensor) and not has_rows((leaf,), (batch.size,)):
            shared.update(_flat(leaf.reshape(1, -1))[0])
    return shared


def _header(leaf: Any) -> bytes:
    """What a value is beside its numbers; of an unknown kind only that it is one."""
    if isinstance(leaf, Tensor):
        return f"{leaf.dtype}{tuple(leaf.shape[1:])}".encode()
    plain = leaf is None or isinstance(leaf, (str, int, float, complex))
    return repr(leaf if plain else type(leaf)).encode()


def _flat(table: Tensor) -> Any:
    """(rows, columns) as rows of bytes."""
    return table.detach().cpu().contiguous().view(torch.uint8).numpy()
