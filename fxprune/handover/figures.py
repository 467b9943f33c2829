"""The figures of a report, apart from the ways to show them."""

from dataclasses import dataclass, field

from fxprune.handover.rows import AloneRow, GroupRow, InputRow, Point, RecoveryRow
from fxprune.verify.agreement import Agreement


@dataclass(frozen=True)
class Figures:
    """What a report knows: sizes, agreement, and what happened to every weight.

    Attributes:
        flops, params, bytes: before and after; FLOPs are per example, by torch.utils.flop_counter
            (a multiply-add counts 2).
        agreement: on calibration examples held out from fitting; None where none were.
        groups: a row per channel group.
        alone: a row for everything that was left alone.
        seconds: wall time per station.
        peak_memory: largest resident size of the process, bytes.
        notes: anything else worth knowing.
        method: by which it was made.
        asked: what the caller asked for, by keyword.
        curve: other sizes from the same calibration, and this one: those that `sweep` made or
            `agreement=` tried.
        advice: what to do where few decisions were kept; else empty.
        held_out: fingerprints of the examples that were held out, so that `recover` knows them
            again (`fxprune.calibrate.fingerprint.pack`); empty where none were.
        recovery: what `recover` did; None where it was not called.
        passes: forward passes over the calibration examples that the call was expected to take when
            it began, and that it took; None where that was not foreseen.
        inputs: of the call that the model was traced on; none where these are no plain tensors.
    """

    flops: tuple[float, float]
    params: tuple[int, int]
    bytes: tuple[int, int]
    agreement: Agreement | None
    groups: tuple[GroupRow, ...]
    alone: tuple[AloneRow, ...]
    seconds: dict[str, float]
    peak_memory: int
    notes: tuple[str, ...]
    method: str
    asked: dict[str, str] = field(default_factory=dict)
    curve: tuple[Point, ...] = ()
    advice: str = ""
    held_out: str = ""
    recovery: RecoveryRow | None = None
    passes: tuple[float, float] | None = None
    inputs: tuple[InputRow, ...] = ()

    @property
    def predicted_error(self) -> float:
        """Predicted relative squared error of the output, from the channels removed and the ranks
        lowered: the sum over the groups.
        """
        return sum(row.error for row in self.groups)

    @property
    def point(self) -> Point | None:
        """Where the model lies in a trade-off; None where nothing was compared."""
        a = self.agreement
        kept = self.flops[1] / max(self.flops[0], 1)
        return None if a is None else Point(kept, a.rate, a.bound, a.examples, a.error)
