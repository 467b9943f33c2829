"""What a call is expected to take, as those who foresee it hand it on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stage:
    """What is foreseen up to the end of a step or station.

    Attributes:
        end: its name.
        runs: by station, seconds of every run of it, in order.
        others: seconds of stations of which it is not known how often they run.
    """

    end: str
    runs: Mapping[str, Sequence[float]]
    others: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> dict[str, float]:
        """By station."""
        return {station: sum(runs) for station, runs in self.runs.items()} | dict(self.others)


@dataclass(frozen=True)
class ExpectedCost:
    """What a call is expected to take from here on.

    Attributes:
        stages: one after the other.
        forward: seconds of one forward pass over all calibration examples.
        whole: whether that is all; latency is measured beside it.
        most: whether it is the most that there can be: it may end before.
    """

    stages: Sequence[Stage]
    forward: float
    whole: bool = True
    most: bool = False

    @property
    def seconds(self) -> dict[str, float]:
        """By station."""
        found: dict[str, float] = {}
        for stage in self.stages:
            for station, seconds in stage.seconds.items():
                found[station] = found.get(station, 0.0) + seconds
        return found

    @property
    def passes(self) -> float:
        """All of it, in forward passes."""
        return sum(self.seconds.values()) / self.forward
