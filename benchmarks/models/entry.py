"""One model of the zoo."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


class TooLarge(Exception):
    """The model has more parameters than asked for."""


@dataclass(frozen=True)
class Entry:
    """A model that is built when its turn comes.

    Attributes:
        name: within its source.
        source: the library it comes from.
        build: gives the module with random weights and two examples.
        target: the submodule to compress, where the whole cannot be captured.
    """

    name: str
    source: str
    build: Callable[[], tuple[nn.Module, Any]]
    target: str = ""

    @property
    def key(self) -> str:
        """Its name among all models."""
        return f"{self.source}/{self.name}"


def within(model: nn.Module, most: float) -> nn.Module:
    """The model itself.

    Raises:
        TooLarge: it has more than `most` million parameters.
    """
    count = sum(p.numel() for p in model.parameters())
    if count > most * 1e6:
        raise TooLarge(f"{count / 1e6:.0f}M parameters")
    return model
