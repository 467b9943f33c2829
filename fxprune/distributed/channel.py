"""What passes between the processes of a group, and what happens when one of them fails.

Every exchange begins with a word of every rank on how it is: what one of them raises is raised by
all, as one error that names the rank, and nobody waits for a rank that does not come.
"""

import contextlib
import io
import math
import pickle
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NoReturn, TypeVar
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, distributed

from fxprune import errors
from fxprune.errors import DistributedError, FxpruneError

T = TypeVar("T")
Form = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype of a tensor that is yet to come."""
Said = tuple[int, bytes | None]
"""Bytes that a rank has to say, and these where they are few."""
HEAD, SHORT = 24, 2048
"""Bytes of the word with which an exchange begins, and of what goes with it at once."""
LONGEST = timedelta(hours=24)
"""That one rank waits for the work of another; one that is gone is noticed at once."""


class Channel:
    """Between the CPUs of all ranks.

    Args:
        group: of torch.distributed, with gloo, for this call alone.

    Attributes:
        rank, size: which of how many this process is.
        sent: bytes that this rank has sent, by what for.
        is_open: whether the ranks are still together.
    """

    def __init__(self, group: "distributed.ProcessGroup"):
        self._group = group
        distributed.distributed_c10d._set_pg_timeout(LONGEST, group)
        self.rank, self.size = distributed.get_rank(group), distributed.get_world_size(group)
        self.sent: dict[str, int] = {}
        self.is_open = True

    def agree(self, what: str, error: Exception | None = None) -> None:
        """Hear how every rank is, before something is exchanged.

        Args:
            what: names the exchange: the same on all ranks.
            error: what this rank raises.

        Raises:
            FxpruneError: one of them failed, or they are not at the same place.
        """
        self._hear(what, b"", error)

    def gather(self, value: T, what: str) -> list[T]:
        """The value of every rank, once all are well; tensors come back on the CPU."""
        own = to_bytes(value)
        return [from_bytes(told) for told in self._collect(self._hear(what, own), own, what)]

    def broadcast(self, value: T, what: str) -> T:
        """The first rank's value, once all are well; tensors come on the CPU."""
        own = to_bytes(value) if self.rank == 0 else b""
        size, short = self._hear(what, own)[0]
        if short is not None:
            return from_bytes(short)  # type: ignore[no-any-return]
        sent = _in_bytes(own, size)
        self._exchange(
            lambda: distributed.broadcast(sent, 0, group=self._group),
            what,
            sent if self.rank == 0 else None,
        )
        return from_bytes(sent.numpy().tobytes())  # type: ignore[no-any-return]

    def hand_in(self, value: T | None, source: int, what: str) -> T | None:
        """One rank's value, on the first rank; None on all others."""
        own = to_bytes(value) if self.rank == source else b""
        size, short = self._hear(what, own)[source]
        if short is None and self.rank == source != 0:
            self.send(_in_bytes(own, size), 0, what)
        if self.rank != 0:
            return None
        if source == 0:
            return value
        if short is None:
            short = self.receive(((size,), torch.uint8), source, what).numpy().tobytes()
        return from_bytes(short)  # type: ignore[no-any-return]

    def _hear(self, what: str, own: bytes, error: Exception | None = None) -> list[Said]:
        """How every rank is, and what it has to say: itself where it is short.

        Args:
            what: names the exchange.
            own: what this rank has to say.
            error: what it raises.
        """
        mark = crc32(what.encode())
        words, said = self._words((error is not None, mark), own, what)
        if any(failed for failed, _ in words):
            self._raise(error)
        if any(word != mark for _, word in words):
            told = [from_bytes(text) for text in self._tell(to_bytes(what))]
            self.part()
            raise DistributedError(
                "The ranks went different ways: "
                + ", ".join(f"rank {rank} came to {text!r}" for rank, text in enumerate(told))
                + ". All of them must make the same call, on the same model with the same weights."
            )
        return said

    def _words(
        self, word: tuple[bool, int], own: bytes, what: str
    ) -> tuple[list[tuple[bool, int]], list[Said]]:
        """One word of every rank: whether it failed, where it is, and what it says."""
        mine = torch.zeros(HEAD + SHORT, dtype=torch.uint8)
        mine[:HEAD] = torch.tensor([*word, len(own)]).view(torch.uint8)
        if 0 < len(own) <= SHORT:
            mine[HEAD : HEAD + len(own)] = torch.frombuffer(bytearray(own), dtype=torch.uint8)
        words = [torch.empty_like(mine) for _ in range(self.size)]
        self._exchange(lambda: distributed.all_gather(words, mine, group=self._group), what, own)
        heads, said = list[tuple[bool, int]](), list[Said]()
        for told in words:
            failed, mark, size = told[:HEAD].view(torch.int64).tolist()
            heads.append((bool(failed), mark))
            short = told[HEAD : HEAD + size].numpy().tobytes() if size <= SHORT else None
            said.append((size, short))
        return heads, said

    def _collect(self, said: Sequence[Said], own: bytes, what: str) -> list[bytes]:
        """What every rank says, where some of them say more than goes into a word."""
        most = max(size for size, _ in said)
        if most <= SHORT:
            return [short or b"" for _, short in said]
        mine = _in_bytes(own, most)
        found = [torch.empty_like(mine) for _ in said]
        self._exchange(lambda: distributed.all_gather(found, mine, group=self._group), what, mine)
        return [one[:size].numpy().tobytes() for one, (size, _) in zip(found, said, strict=True)]

    def _tell(self, own: bytes) -> list[bytes]:
        """What every rank says when something is wrong."""
        return self._collect(self._words((False, 0), own, "")[1], own, "")

    def send(self, tensor: Tensor, target: int, what: str) -> None:
        """Send a tensor to another rank."""
        flat = tensor.detach().cpu().contiguous()
        self._exchange(lambda: _done(distributed.isend(flat, target, self._group)), what, flat)

    def receive(self, form: Form, source: int, what: str) -> Tensor:
        """A tensor that another rank sends."""
        found = torch.empty(form[0], dtype=form[1])
        self._exchange(lambda: _done(distributed.irecv(found, source, self._group)), what)
        return found

    def spread(self, tensor: Tensor | None, form: Form, what: str) -> Tensor:
        """The first rank's tensor, on the CPU."""
        found = torch.empty(form[0], dtype=form[1]) if tensor is None else tensor
        found = found.detach().cpu().contiguous()
        self._exchange(
            lambda: distributed.broadcast(found, 0, group=self._group),
            what,
            found if self.rank == 0 else None,
        )
        return found

    def part(self) -> None:
        """Go; what others still exchange fails."""
        if self.is_open:
            self.is_open = False
            with contextlib.suppress(RuntimeError, ValueError):
                distributed.destroy_process_group(self._group)

    def _raise(self, error: Exception | None) -> NoReturn:
        """Raise what the ranks that failed tell of it: the first one's; as it was where all of
        them failed in the same way.
        """
        own = None if error is None else (type(error).__name__, str(error))
        told = [from_bytes(text) for text in self._tell(to_bytes(own))]
        self.part()
        if error is not None and all(one == told[0] for one in told):
            raise error
        rank, (kind, text) = next((r, one) for r, one in enumerate(told) if one is not None)
        named = getattr(errors, kind, None)
        if not (isinstance(named, type) and issubclass(named, FxpruneError)):
            named, text = DistributedError, f"{kind}: {text}"
        raise named(f"Rank {rank} of {self.size}: {text}") from error

    def _exchange(
        self, call: Callable[[], Any], what: str, sent: Tensor | bytes | None = None
    ) -> None:
        """Exchange something.

        Args:
            call: that does.
            what: it is for.
            sent: what this rank sends.

        Raises:
            DistributedError: a rank is gone.
        """
        try:
            call()
        except RuntimeError as error:
            self.part()
            raise DistributedError(
                f"Rank {self.rank} of {self.size} lost another one (at {what or 'an error'}): it "
                "was stopped, or its machine or the network failed. See what that rank said last."
            ) from error
        self.sent[what] = self.sent.get(what, 0) + _size(sent)


def _done(work: "distributed.Work | None") -> None:
    """Wait for something that goes between two ranks."""
    if work is not None:
        work.wait(LONGEST)


def form_of(tensor: Tensor) -> Form:
    """What another rank needs to know before the tensor comes."""
    return tuple(tensor.shape), tensor.dtype


def packed_form(forms: Sequence[Form]) -> Form:
    """What several tensors need in one piece: bytes."""
    return (sum(math.prod(shape) * dtype.itemsize for shape, dtype in forms),), torch.uint8


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """Several tensors in one piece, on the CPU."""
    return torch.cat([t.detach().cpu().reshape(-1).view(torch.uint8) for t in tensors])


def unpack(packed: Tensor, forms: Sequence[Form]) -> list[Tensor]:
    """What was packed."""
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in forms]
    parts = zip(packed.split(sizes), forms, strict=True)
    return [part.clone().view(dtype).view(shape) for part, (shape, dtype) in parts]


def to_bytes(value: Any) -> bytes:
    """A value that can be pickled, with its tensors wherever they are; of those the numbers that
    they show, in their layout.
    """
    found = io.BytesIO()
    _Pickler(found, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return found.getvalue()


def from_bytes(told: bytes) -> Any:
    """What another rank made bytes of; its tensors on the CPU."""
    return pickle.loads(told)


class _Pickler(pickle.Pickler):
    """Writes tensors without what else lies in their memory."""

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, Tensor):
            return NotImplemented
        strides = obj.stride()
        order = sorted(range(obj.dim()), key=lambda axis: -strides[axis])
        lying = obj.detach().cpu().permute(order).contiguous()
        numbers = lying.reshape(-1).view(torch.uint8).numpy()
        return _restored, (numbers, tuple(lying.shape), tuple(order), obj.dtype)


def _restored(
    numbers: np.ndarray, shape: tuple[int, ...], order: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    back = sorted(range(len(order)), key=order.__getitem__)
    return torch.from_numpy(numbers).view(dtype).view(shape).permute(back)


def _in_bytes(own: bytes, size: int) -> Tensor:
    """As a tensor of so many bytes."""
    found = torch.zeros(size, dtype=torch.uint8)
    if own:
        found[: len(own)] = torch.frombuffer(bytearray(own), dtype=torch.uint8)
    return found


def _size(value: Tensor | bytes | None) -> int:
    if value is None:
        return 0
    return value.nbytes if isinstance(value, Tensor) else len(value)
