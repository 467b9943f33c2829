"""The table of constructs: what a random network is made of."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.random_graphs.program import Kind, Program, Value

Write = Callable[[Program, Value], Value | None]


@dataclass(frozen=True)
class Construct:
    """One way to go on from a value.

    Attributes:
        name: of the function that writes it.
        kinds: what it takes.
        ranks: spatial ranks that it takes of maps.
        least: smallest size of a map that it takes.
        write: writes the statements; gives None where it does not take this value.
        weight: how often it is drawn.
    """

    name: str
    kinds: tuple[Kind, ...]
    ranks: tuple[int, ...]
    least: int
    write: Write
    weight: float = 1.0

    def takes(self, x: Value) -> bool:
        """Whether it goes on from such a value."""
        if x.kind not in self.kinds:
            return False
        return x.kind != "map" or (x.rank in self.ranks and min(x.sizes) >= self.least)


CONSTRUCTS: dict[str, Construct] = {}


def construct(
    *kinds: Kind, ranks: tuple[int, ...] = (1, 2, 3), least: int = 1, weight: float = 1.0
) -> Callable[[Write], Write]:
    """Enter a function into the table; kinds are those that it takes."""

    def add(write: Write) -> Write:
        CONSTRUCTS[write.__name__] = Construct(
            write.__name__, kinds or ("map", "tokens", "flat"), ranks, least, write, weight
        )
        return write

    return add
