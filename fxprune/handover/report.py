"""What was done and what it gave: `fxprune.report(small)`."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from fxprune.errors import PlanError
from fxprune.handover.figures import Figures
from fxprune.handover.page import render, write_page
from fxprune.handover.summary import summarize
from fxprune.handover.tables import (
    tabulate_alone,
    tabulate_groups,
    tabulate_sizes,
    tell_outputs,
    tell_perplexity,
    tell_recovery,
)
from fxprune.handover.typed import finite, read_typed
from fxprune.plans.plan import Plan

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

KEY = "fxprune"
WIDTH = 80
"""Columns of the plain text."""
LINES = 60
"""Lines that a report takes on a terminal, unless its notes alone are longer."""
ROWS = (30, 24, 20, 16, 12, 10, 8, 6, 4)
"""Rows of a table that are tried for that."""


class Report(Figures):
    """Sizes, agreement, and what happened to every weight, for people, browsers and programs."""

    def to_json(self, **options: Any) -> str:
        """The report as a JSON document; numbers that are not finite become null, and pictures of
        calibration examples are left out.
        """
        document = asdict(self)
        for example in (document["agreement"] or {}).get("changed", ()):
            del example["picture"]
        return json.dumps(finite(document), **({"allow_nan": False} | options))

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

    def summary(self) -> str:
        """Ten lines: what was asked for, what it gave, when two outputs are the same decision, the
        bound, and what to do next.
        """
        return summarize(self)

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the report as one file that a browser shows, without anything from elsewhere.

        Where inputs are images, it shows some calibration examples on which the decision changed,
        if this is the process that compressed the model.

        Raises:
            StorageError: the path cannot be written.
        """
        write_page(self, path)

    def _repr_html_(self) -> str:
        """For notebooks."""
        return render(self)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        """Tables for a terminal, under a line that says what a decision is; as many rows as leave
        all within `LINES` lines. `groups` and `alone` have every row.
        """
        for most in ROWS:
            parts = list(self._tables(options.max_width, most))
            if sum(len(console.render_lines(part, options)) for part in parts) <= LINES:
                break
        yield from parts

    def _tables(self, width: int, most: int) -> Iterator["RenderableType"]:
        from rich.text import Text

        if self.agreement is not None and self.agreement.decision:
            yield Text(f"Decision: {self.agreement.decision}.")
        yield tabulate_sizes(f"fxprune: {self.method}", self.flops, self.params, self.bytes)
        if self.agreement is not None:
            a = self.agreement
            yield Text(
                f"Same decision on {a.rate:.2%} of {a.compared}; at "
                f"least {a.bound:.2%} with 95 % confidence. Relative output error {a.error:.2e} "
                f"({self.predicted_error:.2e} predicted before fitting)."
            )
            yield from map(Text, tell_outputs(a))
            yield from map(Text, tell_perplexity(a))
        if self.advice:
            yield Text(self.advice, style="bold")
        if self.recovery is not None:
            yield Text(tell_recovery(self.recovery))
        yield tabulate_groups(self.groups, width, most)
        if self.alone:
            yield tabulate_alone(self.alone, width, most)
        times = ", ".join(f"{station} {seconds:.2f} s" for station, seconds in self.seconds.items())
        yield Text(f"Time: {times}. Peak memory {self.peak_memory / 1e6:.0f} MB.")
        for note in self.notes:
            yield Text(f"Note: {note}.")

    def __str__(self) -> str:
        """The tables as plain text of 80 columns."""
        from rich.console import Console

        console = Console(width=WIDTH, force_terminal=False, no_color=True)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


def attach(small: nn.Module, report: Report, plan: Plan) -> None:
    """Leave the report and plan with the module; they survive a deepcopy."""
    meta: dict[str, Any] = small.meta  # type: ignore[assignment]
    meta[KEY] = {"report": report, "plan": plan}


def note_curve(models: Sequence[nn.Module]) -> None:
    """Tell each model's report what all of one calibration gave."""
    reports = [report(small) for small in models]
    curve = tuple(point for own in reports if (point := own.point) is not None)
    for small, own in zip(models, reports, strict=True):
        attach(small, replace(own, curve=curve), plan_of(small))


def _attached(small: nn.Module, what: str) -> Any:
    meta = getattr(small, "meta", None)
    attached = meta.get(KEY) if isinstance(meta, dict) else None
    if attached is None:
        inside = next(iter(parts_of(small)), None)
        advice = (
            "pass what fxprune.compress or fxprune.apply returned"
            if inside is None
            else f"its compressed parts do, such as model.get_submodule({inside!r})"
        )
        raise PlanError(f"This {type(small).__name__} carries no fxprune {what}: {advice}.")
    return attached[what]


def report(small: nn.Module) -> Report:
    """The report of a module that `compress` or `apply` returned, or of a model that holds such
    modules, as with `targets=`: their rows under their names.

    Raises:
        PlanError: the module did not come from fxprune.
    """
    parts = parts_of(small)
    if parts and "" not in parts:
        return _of_parts(small, parts)
    attached: Report = _attached(small, "report")
    return attached


def parts_of(model: nn.Module) -> dict[str, Report]:
    """The reports within a model, by the name of the module that carries each; its own under the
    empty name, and then no other.
    """
    found: dict[str, Report] = {}
    for name, module in model.named_modules() if isinstance(model, nn.Module) else ():
        meta = getattr(module, "meta", None)
        held = meta.get(KEY) if isinstance(meta, dict) else None
        if held is not None and not any(name.startswith(f"{p}." if p else "") for p in found):
            found[name] = held["report"]
    return found


def _of_parts(model: nn.Module, parts: Mapping[str, Report]) -> Report:
    """One report of a model with compressed parts: FLOPs are theirs, parameters and bytes the whole
    model's.
    """
    tensors = [*model.parameters(), *model.buffers()]
    params = sum(p.numel() for p in model.parameters())
    size = sum(t.numel() * t.element_size() for t in tensors)
    first, names = next(iter(parts.values())), ", ".join(parts)
    notes = [
        f"compressed in place: {names}. FLOPs and times are of that alone, and how often the whole "
        "model decides alike was not compared"
    ]
    for name, own in parts.items():
        a = own.agreement
        if a is not None:
            notes.append(
                f"{name}: {a.decision or 'same decision'} on {a.rate:.2%} of {a.examples} held-out "
                f"{a.unit}s, at least {a.bound:.2%} with 95 % confidence"
            )
        notes += [f"{name}: {note}" for note in own.notes]
    seconds: dict[str, float] = {}
    for own in parts.values():
        for station, took in own.seconds.items():
            seconds[station] = seconds.get(station, 0.0) + took
    return Report(
        flops=(sum(r.flops[0] for r in parts.values()), sum(r.flops[1] for r in parts.values())),
        params=(params + sum(r.params[0] - r.params[1] for r in parts.values()), params),
        bytes=(size + sum(r.bytes[0] - r.bytes[1] for r in parts.values()), size),
        agreement=None,
        groups=tuple(
            replace(row, name=f"{name}.{row.name}", members=_under(name, row.members))
            for name, own in parts.items()
            for row in own.groups
        ),
        alone=tuple(
            replace(row, name=f"{name}.{row.name}")
            for name, own in parts.items()
            for row in own.alone
        ),
        seconds=seconds,
        peak_memory=max(own.peak_memory for own in parts.values()),
        notes=tuple(notes),
        method=", ".join(dict.fromkeys(own.method for own in parts.values())),
        asked={**first.asked, "targets": names},
    )


def _under(name: str, members: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{name}.{member}" for member in members)


def plan_of(small: nn.Module) -> Plan:
    """The plan a module was made by.

    Raises:
        PlanError: the module did not come from fxprune.
    """
    attached: Plan = _attached(small, "plan")
    return attached
