"""What was done and what it gave: `fxprune.report(small)`."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text
from torch import nn

from fxprune.errors import PlanError
from fxprune.handover.rows import (
    AloneRow,
    GroupRow,
    RecoveryRow,
    tabulate_alone,
    tabulate_groups,
    tabulate_sizes,
    tell_outputs,
    tell_recovery,
)
from fxprune.handover.typed import finite, read_typed
from fxprune.plans.plan import Plan
from fxprune.verify.agreement import Agreement

KEY = "fxprune"


@dataclass(frozen=True)
class Report:
    """Sizes, agreement, and what happened to every weight.

    Attributes:
        flops, params, bytes: before and after; FLOPs are per example, by torch.utils.flop_counter
            (a multiply-add counts 2).
        agreement: on calibration examples held out from fitting; None where none were.
        groups: a row per channel group.
        alone: a row for everything that was left alone.
        seconds: wall time per station.
        peak_memory: largest resident size of the process, bytes.
        notes: anything else worth knowing.
        method: how it was made.
        advice: what to do where few decisions were kept; else empty.
        held_out: fingerprints of the examples that were held out, so that `recover` knows them
            again (`fxprune.calibrate.fingerprint.pack`); empty where none were.
        recovery: what `recover` did; None where it was not called.
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
    advice: str = ""
    held_out: str = ""
    recovery: RecoveryRow | None = None

    @property
    def predicted_error(self) -> float:
        """Predicted relative squared error of the output, from the channels removed and the ranks
        lowered: the sum over the groups.
        """
        return sum(row.error for row in self.groups)

    def to_json(self, **options: Any) -> str:
        """The report as a JSON document; numbers that are not finite become null."""
        return json.dumps(finite(asdict(self)), **({"allow_nan": False} | options))

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Read a report back.

        Raises:
            PlanError: not what `to_json` wrote.
        """
        try:
            return read_typed(cls, json.loads(text), "report")  # type: ignore[no-any-return]
        except (ValueError, TypeError, RecursionError) as error:
            raise PlanError(
                f"This is not a report: {type(error).__name__}: {error}. Pass what Report.to_json "
                "wrote."
            ) from error

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Tables for a terminal, under a line that says what a decision is."""
        if self.agreement is not None and self.agreement.decision:
            yield Text(f"Decision: {self.agreement.decision}.")
        yield tabulate_sizes(f"fxprune: {self.method}", self.flops, self.params, self.bytes)
        if self.agreement is not None:
            a = self.agreement
            yield Text(
                f"Same decision on {a.rate:.2%} of {a.examples} held-out calibration examples; at "
                f"least {a.bound:.2%} with 95 % confidence. Relative output error {a.error:.2e} "
                f"({self.predicted_error:.2e} predicted before fitting)."
            )
            yield from map(Text, tell_outputs(a))
        if self.advice:
            yield Text(self.advice, style="bold")
        if self.recovery is not None:
            yield Text(tell_recovery(self.recovery))
        yield tabulate_groups(self.groups)
        if self.alone:
            yield tabulate_alone(self.alone)
        times = ", ".join(f"{station} {seconds:.2f} s" for station, seconds in self.seconds.items())
        yield Text(f"Time: {times}. Peak memory {self.peak_memory / 1e6:.0f} MB.")
        for note in self.notes:
            yield Text(f"Note: {note}.")

    def __str__(self) -> str:
        """The tables as plain text."""
        console = Console(width=120, force_terminal=False, no_color=True)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


def attach(small: nn.Module, report: Report, plan: Plan) -> None:
    """Leave the report and plan with the module; they survive a deepcopy."""
    meta: dict[str, Any] = small.meta  # type: ignore[assignment]
    meta[KEY] = {"report": report, "plan": plan}


def _attached(small: nn.Module, what: str) -> Any:
    meta = getattr(small, "meta", None)
    attached = meta.get(KEY) if isinstance(meta, dict) else None
    if attached is None:
        raise PlanError(
            f"This {type(small).__name__} carries no fxprune {what}: pass what fxprune.compress "
            "or fxprune.apply returned."
        )
    return attached[what]


def report(small: nn.Module) -> Report:
    """The report of a module that `compress` or `apply` returned.

    Raises:
        PlanError: the module did not come from fxprune.
    """
    attached: Report = _attached(small, "report")
    return attached


def plan_of(small: nn.Module) -> Plan:
    """The plan a module was made by.

    Raises:
        PlanError: the module did not come from fxprune.
    """
    attached: Plan = _attached(small, "plan")
    return attached
