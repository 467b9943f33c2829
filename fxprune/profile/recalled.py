"""What the original gave on the fitting examples, kept for a run that goes on: sums in one step,
the recorded samples in packs of chunks before it.

The examples themselves are not kept: the loader gives them again. What several ranks recorded is
kept in the order of one process, so that any number of them goes on from it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from fxprune.calibrate.moments import InputMoments, MomentsOnDemand, Site
from fxprune.calibrate.penultimate import Seen
from fxprune.calibrate.recording import Chunk, Recording
from fxprune.progress import Journal
from fxprune.resume.steps import Outcome
from fxprune.resume.typed import decode, encode, on_device

PACK = 1 << 27
"""Bytes of samples from which a pack is full."""
SUMS, RECORDED = "observed", "recording"
"""Names of the steps."""


@dataclass(frozen=True)
class Observation:
    """Everything of an observation but its recording.

    Attributes:
        moments, validating: of every consumer's input, without the validation split and on it.
        seen: what the last layer reads, where that was looked at.
        packs: in how many the recording is kept; known to the rank that keeps it.
    """

    moments: dict[Site, InputMoments]
    validating: dict[Site, InputMoments]
    seen: Seen | None
    packs: int = 0


@dataclass(frozen=True)
class Observed:
    """What the original gave on the fitting examples.

    Attributes:
        moments: of every consumer's input, without the validation split: what that validates must
            not have seen it.
        all_moments: with it.
        recording: the layers' and the model's outputs.
    """

    moments: Mapping[Site, InputMoments]
    all_moments: Mapping[Site, InputMoments]
    recording: Recording

    @property
    def validating(self) -> Mapping[Site, InputMoments]:
        """Moments on the validation split alone; of nothing where there is none."""
        fitted, every = self.moments, self.all_moments
        if every is fitted:
            return {}
        return MomentsOnDemand(fitted, lambda site: every[site] - fitted[site])


@dataclass(frozen=True)
class KeptChunk:
    """What was recorded of a chunk, beside its inputs.

    Attributes:
        samples: by call, positions and the output there.
        outputs: the model's flat outputs.
    """

    samples: dict[str, tuple[Tensor, Tensor]]
    outputs: list[Any]


def observe_once(
    journal: Journal,
    observe: Callable[[], tuple[Observation, Recording]],
    empty: Callable[[], tuple[Recording, Iterable[object]]],
    owners: Sequence[int],
    scope: tuple[str, ...] = (),
) -> tuple[Observation, Recording]:
    """An observation as it was kept, or made and then kept.

    Args:
        journal: of the run.
        observe: runs the original.
        empty: a recording without samples, and the batches that it records here, their chunks
            opened as they are read.
        owners: the rank that records a batch, for every batch of all ranks in the order in which
            one process records them.
        scope: which of the run's graphs is observed, where it is not the original.

    Raises:
        StorageError: it cannot be kept.
    """
    made = list[Recording]()

    def observed() -> Observation:
        sums, recording = observe()
        made.append(recording)
        packs = 0
        if journal.steps.folder is not None:
            for packs, pack in enumerate(_packs(_chunks(recording, owners, journal)), 1):
                journal.steps.keep(RECORDED, (packs - 1, *scope), Outcome(pack))
        return Observation(sums.moments, sums.validating, sums.seen, packs)

    sums = journal.step(SUMS, scope, Observation, observed)
    recording = made[0] if made else None
    if recording is None:
        recording = _recall(_kept_chunks(journal, sums.packs, scope), *empty(), owners)
    if recording is None:
        journal.steps.forget(SUMS)
        sums = journal.step(SUMS, scope, Observation, observed)
        recording = made[0]
    return sums, recording


def _chunks(recording: Recording, owners: Sequence[int], journal: Journal) -> Iterator[KeptChunk]:
    """What all ranks recorded, on the first one; nothing on all others."""
    group, own = recording.sums.group, iter(recording.chunks)
    if group.size == 1:
        yield from (_kept(recording, chunk) for chunk in own)
        return
    for owner in owners:
        chunk = next(own) if owner == group.rank else None
        found = group.hand_in(partial(_encoded, recording, chunk), owner, RECORDED)
        if found is not None:
            document, tensors = found
            yield decode(KeptChunk, on_device(document, journal.steps.device), tensors)


def _encoded(recording: Recording, chunk: Chunk | None) -> tuple[Any, dict[str, Tensor]]:
    assert chunk is not None
    tensors = dict[str, Tensor]()
    return encode(_kept(recording, chunk), tensors), tensors


def _kept(recording: Recording, chunk: Chunk) -> KeptChunk:
    samples = {call: recording.sample(chunk, call) for call in chunk.samples}
    return KeptChunk(samples, [recording.store.get(leaf) for leaf in chunk.outputs])


def _packs(chunks: Iterable[KeptChunk]) -> Iterator[list[KeptChunk]]:
    """What was recorded, in pieces of bounded size."""
    pack, size = list[KeptChunk](), 0
    for chunk in chunks:
        pack.append(chunk)
        pairs = chunk.samples.values()
        size += sum(t.numel() * t.element_size() for pair in pairs for t in pair)
        if size >= PACK:
            yield pack
            pack, size = [], 0
    if pack:
        yield pack


def _recall(
    kept: Iterator[KeptChunk],
    recording: Recording,
    batches: Iterable[object],
    owners: Sequence[int],
) -> Recording | None:
    """The recording with what was kept; None where a part of that is missing or damaged."""
    rank = recording.sums.group.rank
    own = iter(batches)
    for owner in owners:
        found = next(kept, None)
        if found is None:
            return None
        if owner == rank:
            next(own)
            recording.recall(recording.chunks[-1], found.samples, found.outputs)
    return recording


def _kept_chunks(journal: Journal, packs: int, scope: tuple[str, ...]) -> Iterator[KeptChunk]:
    """One after the other, as far as they are whole."""
    for number in range(packs):
        found = journal.steps.find(RECORDED, (number, *scope), list[KeptChunk])
        if found is None:
            return
        yield from found.value
