"""Samples of one call in one piece, wherever the store has room for it."""

from typing import Any

from torch import Tensor

from fxprune.calibrate.spill import Spill


class Table:
    """Samples of one call, chunk by chunk.

    Many small tensors that stay, made between large ones that go, would fragment the memory.

    Args:
        store: where there is room for it, or for its parts.
        most: samples there will be at most.
        places, targets: the first ones.
    """

    def __init__(self, store: Spill, most: int, places: Tensor, targets: Tensor):
        self._store, self._used = store, 0
        self._places = store.empty((len(places), most), places)
        self._targets = store.empty((most, targets.shape[1]), targets)

    def add(self, places: Tensor, targets: Tensor) -> tuple[Any, Any]:
        """Handles of further samples."""
        own = slice(self._used, self._used + len(targets))
        if self._places is None or self._targets is None or own.stop > len(self._targets):
            # There are more than were foreseen where batches of many kinds are filled with copies.
            return self._store.put(places), self._store.put(targets)
        self._used = own.stop
        return self._places[:, own].copy_(places), self._targets[own].copy_(targets)
