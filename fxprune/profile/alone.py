"""What trials read of a recording that is shared out, on every rank: for one that tries a candidate
by itself, and needs no word of the others meanwhile.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fxprune.calibrate.recording import Chunk, Recording
from fxprune.profile.recalled import KeptChunk
from fxprune.resume.typed import decode, encode, on_device

Told = tuple[int, Any, dict[str, Tensor]]
"""The first example of a chunk, and what is known of the chunk as JSON and tensors."""


def for_one(shared: Recording, found: Recording, batches: Iterable[object]) -> Recording:
    """What trials read, for one process; all ranks ask for it.

    A chunk of every rank travels at a time. Inputs do not: all ranks hold the examples.

    Args:
        shared: of all ranks, finished.
        found: the same with nothing recorded.
        batches: of all ranks, that trials read; their chunks are opened as they are read.
    """
    for _ in batches:
        pass
    chunks, group = {chunk.first: chunk for chunk in found.chunks}, shared.sums.group
    found.hold_by_itself()
    own = [chunk for chunk in shared.chunks if chunk.first in chunks]
    for number in range(max(group.gather(len(own), "trials"))):
        told = _told(shared, own[number]) if number < len(own) else None
        for one in group.gather(told, "trials"):
            if one is not None:
                _recall(found, chunks[one[0]], one)
    found.finish()
    return found


def _told(shared: Recording, chunk: Chunk) -> Told:
    """What a rank tells of a chunk."""
    known = KeptChunk(
        {call: shared.sample(chunk, call) for call in chunk.samples},
        [shared.store.get(leaf) for leaf in chunk.outputs],
    )
    tensors = dict[str, Tensor]()
    return chunk.first, encode(known, tensors), tensors


def _recall(found: Recording, chunk: Chunk, told: Told) -> None:
    """Take what was told of a chunk, on the device of its inputs."""
    inputs = (found.store.get(x) for x in chunk.inputs)
    device = next((x.device for x in inputs if isinstance(x, Tensor)), torch.device("cpu"))
    _, document, tensors = told
    # In torch's own memory, on which products may depend.
    own = {name: tensor.clone() for name, tensor in tensors.items()}
    known = decode(KeptChunk, on_device(document, str(device)), own)
    found.recall(chunk, known.samples, known.outputs)
