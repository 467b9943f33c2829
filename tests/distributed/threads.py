"""Ranks that are threads of one process, whose channels note what they send."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Barrier
from typing import Any, TypeVar

from torch import Tensor

from fxprune.distributed.channel import Channel, Form

T = TypeVar("T")
WAIT = 20.0
"""Seconds."""


class ThreadChannel(Channel):
    """As `Channel`, between threads.

    Attributes:
        messages: bytes of each that went from this rank to another, and to whom.
    """

    def __init__(self, rank: int, told: list[Any], queues: Sequence[Any], barrier: Barrier):
        self.rank, self.size, self.sent = rank, len(told), {}
        self.messages = list[tuple[int, int]]()
        self._told, self._queues, self._barrier = told, queues, barrier

    def gather(self, value: T, what: str) -> list[T]:
        self._told[self.rank] = value
        self._barrier.wait(WAIT)
        found = list(self._told)
        self._barrier.wait(WAIT)
        return found

    def send(self, tensor: Tensor, target: int, what: str) -> None:
        self.messages.append((target, tensor.nbytes))
        self._queues[self.rank][target].put(tensor.clone())

    def receive(self, form: Form, source: int, what: str) -> Tensor:
        found: Tensor = self._queues[source][self.rank].get(timeout=WAIT)
        assert (tuple(found.shape), found.dtype) == form
        return found

    def spread(self, tensor: Tensor | None, form: Form, what: str) -> Tensor:
        found = next(one for one in self.gather(tensor, what) if one is not None).clone()
        assert (tuple(found.shape), found.dtype) == form
        return found


def on_threads(work: Callable[[ThreadChannel], T], size: int) -> list[T]:
    """What every rank gives."""
    told: list[Any] = [None] * size
    queues = [[SimpleQueue[Tensor]() for _ in range(size)] for _ in range(size)]
    barrier = Barrier(size)
    with ThreadPoolExecutor(size) as threads:
        channels = [ThreadChannel(rank, told, queues, barrier) for rank in range(size)]
        return list(threads.map(work, channels))
