"""What passes between the processes of a group, and what happens when one of them fails.

Every exchange begins with a word of every rank on how it is: what one of them raises is raised by
all, as one error that names the rank, and nobody waits for a rank that does not come.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, NoReturn, TypeVar
from zlib import crc32

import torch
from torch import Tensor, distributed
from torch.utils import _pytree as pytree

from fxprune import errors
from fxprune.errors import DistributedError, FxpruneError

T = TypeVar("T")
Form = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype of a tensor that is yet to come."""


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
        mine = torch.tensor([error is not None, crc32(what.encode())])
        words = [torch.empty_like(mine) for _ in range(self.size)]
        self._exchange(lambda: distributed.all_gather(words, mine, group=self._group), what)
        if any(bool(word[0]) for word in words):
            self._raise(error)
        if any(not torch.equal(word, mine) for word in words):
            told = self.gather(what, what)
            self.part()
            raise DistributedError(
                "The ranks went different ways: "
                + ", ".join(f"rank {rank} came to {text!r}" for rank, text in enumerate(told))
                + ". All of them must make the same call, on the same model with the same weights."
            )

    def gather(self, value: T, what: str) -> list[T]:
        """The value of every rank; tensors come back on the CPU."""
        found: list[Any] = [None] * self.size
        own = to_cpu(value)
        self._exchange(
            lambda: distributed.all_gather_object(found, own, group=self._group), what, own
        )
        return found

    def broadcast(self, value: T, what: str) -> T:
        """The first rank's value; tensors come on the CPU."""
        sent: list[T] = [to_cpu(value)]
        self._exchange(
            lambda: distributed.broadcast_object_list(sent, src=0, group=self._group),
            what,
            sent if self.rank == 0 else None,
        )
        return sent[0]

    def send(self, tensor: Tensor, target: int, what: str) -> None:
        """Send a tensor to another rank."""
        flat = tensor.detach().cpu().contiguous()
        self._exchange(lambda: distributed.send(flat, target, group=self._group), what, flat)

    def receive(self, form: Form, source: int, what: str) -> Tensor:
        """A tensor that another rank sends."""
        found = torch.empty(form[0], dtype=form[1])
        self._exchange(lambda: distributed.recv(found, source, group=self._group), what)
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
        told = self.gather(None if error is None else (type(error).__name__, str(error)), "error")
        self.part()
        if error is not None and all(one == told[0] for one in told):
            raise error
        rank, (kind, text) = next((r, one) for r, one in enumerate(told) if one is not None)
        named = getattr(errors, kind, None)
        if not (isinstance(named, type) and issubclass(named, FxpruneError)):
            named, text = DistributedError, f"{kind}: {text}"
        raise named(f"Rank {rank} of {self.size}: {text}") from error

    def _exchange(self, call: Callable[[], Any], what: str, sent: Any = None) -> None:
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


def to_cpu(value: Any) -> Any:
    """A nest with all of its tensors on the CPU, also those in dataclasses."""
    return pytree.tree_map(_leaf_to_cpu, value)


def _leaf_to_cpu(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.detach().cpu()
    if is_dataclass(leaf) and not isinstance(leaf, type):
        held = {f.name: getattr(leaf, f.name) for f in fields(leaf)}
        if any(isinstance(value, Tensor) for value in held.values()):
            return replace(leaf, **to_cpu(held))
    return leaf


def _size(value: Any) -> int:
    """Bytes of the tensors and arrays in a nest; what else there is counts little."""
    return sum(getattr(leaf, "nbytes", 0) for leaf in pytree.tree_leaves(value))
