"""Rows of a report."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GroupRow:
    """One channel group.

    Attributes:
        name, members: the group and the weight axes that hold its channels.
        before, after: channels in all blocks.
        error: part of the predicted relative squared error of the model's output that comes from
            removing the rest of the group.
        measured: relative squared error of what the layer that makes the channels gives, those
            that it kept, on held-out examples and after fitting; None where there is no such
            layer or example.
        rotated: whether these are new coordinates of the channels, of which the first stay.
    """

    name: str
    members: tuple[str, ...]
    before: int
    after: int
    error: float
    measured: float | None = None
    rotated: bool = False

    @property
    def title(self) -> str:
        """Of the group, for people."""
        return f"{self.name} (rotated)" if self.rotated else self.name


@dataclass(frozen=True)
class AloneRow:
    """Something left at full size, and why."""

    name: str
    size: int
    reason: str


@dataclass(frozen=True)
class InputRow:
    """One tensor that a model was called with when it was traced.

    Attributes:
        name: of the keyword; empty where it stands without one.
        shape: with the examples in front.
        dtype: such as `float32`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Point:
    """One size of a trade-off.

    Attributes:
        flops: share of the original's that is kept.
        rate, bound, examples, error: of the agreement; see `Agreement`.
    """

    flops: float
    rate: float
    bound: float
    examples: int
    error: float


@dataclass(frozen=True)
class RecoveryRow:
    """What `recover` did.

    Attributes:
        steps: of the optimizer, in all.
        seconds: of training.
        processes: that trained together.
        trained: examples that were trained on.
        accepted: examples on which the result was chosen; no others chose.
        kept: the step whose weights, or those part of the way to them, were handed back; 0 where
            the compressed model came back as it was.
        chosen: agreement on those examples in all their views, before and after.
        divergence: of the outputs there, before and after.
        certified: agreement on the examples that the bound is from, before and after.
        views: of every example on which the result was chosen: as it is, and flipped or shifted.
        way: share of the way to the weights of that step, from the best before them.
        optimizer: that took the steps, `soap`, `adam` or `sgd`.
    """

    steps: int
    seconds: float
    processes: int
    trained: int
    accepted: int
    kept: int
    chosen: tuple[float, float]
    divergence: tuple[float, float]
    certified: tuple[float, float]
    views: int = 1
    way: float = 1.0
    optimizer: str = ""
