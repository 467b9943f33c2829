"""What was done and what it gave: `fxprune.report(small)`."""

import json
from dataclasses import asdict, dataclass, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text
from torch import nn

from fxprune.errors import PlanError
from fxprune.plans.plan import Plan
from fxprune.verify.agreement import Agreement

KEY = "fxprune"


@dataclass(frozen=True)
class GroupRow:
    """One channel group.

    Attributes:
        name, members: the group and the weight axes that hold its channels.
        before, after: channels in all blocks.
        error: part of the predicted relative squared error of the model's output that comes from
            removing the rest of the group.
    """

    name: str
    members: tuple[str, ...]
    before: int
    after: int
    error: float


@dataclass(frozen=True)
class AloneRow:
    """Something left at full size, and why."""

    name: str
    size: int
    reason: str


def _typed(kind: Any, value: Any, name: str) -> Any:
    """JSON as a dataclass, or as what one of its fields is annotated with.

    Raises:
        TypeError: it is of another type.
    """
    origin, of = get_origin(kind), get_args(kind)
    if kind is Any or kind is float and isinstance(value, int) and not isinstance(value, bool):
        return value
    if origin in (Union, UnionType):
        return (
            None
            if value is None
            else _typed(next(k for k in of if k is not type(None)), value, name)
        )
    if origin is tuple and isinstance(value, list):
        kinds = of[:1] * len(value) if of[1:] == (...,) else of
        return tuple(_typed(k, v, name) for k, v in zip(kinds, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {_typed(of[0], k, name): _typed(of[1], v, name) for k, v in value.items()}
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        unknown = sorted(set(value) - set(hints))
        if unknown:
            raise TypeError(f"{name} has no {unknown[0][:80]!r}")
        return kind(**{k: _typed(hints[k], v, k) for k, v in value.items()})
    if (
        isinstance(kind, type)
        and isinstance(value, kind)
        and not (isinstance(value, bool) and kind is int)
    ):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}")


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

    @property
    def predicted_error(self) -> float:
        """Predicted relative squared error of the output, from the channels removed and the ranks
        lowered: the sum over the groups.
        """
        return sum(row.error for row in self.groups)

    def to_json(self, **options: Any) -> str:
        """The report as a JSON document."""
        return json.dumps(asdict(self), **options)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Read a report back.

        Raises:
            PlanError: not what `to_json` wrote.
        """
        try:
            return _typed(cls, json.loads(text), "report")  # type: ignore[no-any-return]
        except (ValueError, TypeError, RecursionError) as error:
            raise PlanError(
                f"This is not a report: {type(error).__name__}: {error}. Pass what Report.to_json "
                "wrote."
            ) from error

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Tables for a terminal."""
        sizes = Table(title=f"fxprune: {self.method}", title_justify="left")
        for column in ("", "before", "after", "kept"):
            sizes.add_column(column, justify="left" if not column else "right")
        for name, (before, after), unit in (
            ("FLOPs per example", self.flops, 1e6),
            ("parameters", self.params, 1e3),
            ("bytes", self.bytes, 1e3),
        ):
            label = {1e6: "M", 1e3: "k"}[unit]
            sizes.add_row(
                name,
                f"{before / unit:,.1f} {label}",
                f"{after / unit:,.1f} {label}",
                f"{after / max(before, 1):.1%}",
            )
        yield sizes
        if self.agreement is not None:
            a = self.agreement
            yield Text(
                f"Same decision on {a.rate:.2%} of {a.examples} held-out calibration examples; at "
                f"least {a.bound:.2%} with 95 % "
                f"confidence. Relative output error {a.error:.2e} ({self.predicted_error:.2e} "
                "predicted before fitting)."
            )
        groups = Table(title="Channel groups", title_justify="left")
        for column in ("group", "weights", "before", "after", "predicted error"):
            groups.add_column(
                column,
                justify="right" if column in ("before", "after", "predicted error") else "left",
                overflow="fold",
            )
        for row in self.groups:
            members = ", ".join(row.members[:1]) + (
                f" and {len(row.members) - 1} more" if len(row.members) > 1 else ""
            )
            groups.add_row(row.name, members, str(row.before), str(row.after), f"{row.error:.1e}")
        yield groups
        if self.alone:
            alone = Table(title="Left alone", title_justify="left")
            for column in ("what", "size", "why"):
                alone.add_column(
                    column, justify="right" if column == "size" else "left", overflow="fold"
                )
            for left in self.alone:
                alone.add_row(left.name, str(left.size), left.reason)
            yield alone
        times = ", ".join(f"{k} {v:.2f} s" for k, v in self.seconds.items())
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


def _held(small: nn.Module, what: str) -> Any:
    held = (
        getattr(small, "meta", {}).get(KEY)
        if isinstance(getattr(small, "meta", None), dict)
        else None
    )
    if held is None:
        raise PlanError(
            f"This {type(small).__name__} carries no fxprune {what}: pass what fxprune.compress "
            "or fxprune.apply returned."
        )
    return held[what]


def report(small: nn.Module) -> Report:
    """The report of a module that `compress` or `apply` returned.

    Raises:
        PlanError: the module did not come from fxprune.
    """
    found: Report = _held(small, "report")
    return found


def plan_of(small: nn.Module) -> Plan:
    """The plan a module was made by.

    Raises:
        PlanError: the module did not come from fxprune.
    """
    found: Plan = _held(small, "plan")
    return found
