"""A report in ten lines: `fxprune.report(small).summary()`."""

import textwrap
from collections.abc import Iterator, Mapping

from fxprune.handover.figures import Figures
from fxprune.handover.tables import in_one_unit
from fxprune.progress import passes_tell
from fxprune.verify.agreement import Agreement

LOW = 0.95
"""Agreement below which a smaller cut is the better advice."""
LOOSE = 0.99
"""A bound below this says little where no decision changed."""
CERTIFIES = 299
"""Held-out examples without a changed decision that certify 99 %."""
QUESTION = "Say when two outputs are the same decision"
"""In the note of a call that was in doubt what a decision is (`fxprune.verify.judge`)."""
PARTS = "targets"
"""The keyword by which parts of a model are compressed in place."""
LABEL = 11
COLUMNS = 80
"""Of a terminal; what is longer goes on below."""
LONGEST = 300


def summarize(report: Figures) -> str:
    """What was asked, got and promised, and what to do next: ten lines, each with its label, and
    more where the model was trained or a line would be wider than a terminal.
    """
    told = [f"fxprune {report.method}"]
    for label, text in _lines(report):
        told += textwrap.wrap(
            text,
            COLUMNS,
            initial_indent=f"{label:<{LABEL}}",
            subsequent_indent=" " * LABEL,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(told)


def lines_of(report: Figures) -> list[tuple[str, str]]:
    """The lines as labels and texts, those that go on under the label before."""
    joined = list[tuple[str, str]]()
    for label, text in _lines(report):
        if label:
            joined.append((label, text))
        else:
            joined[-1] = joined[-1][0], f"{joined[-1][1]}; {text}"
    return joined


def _lines(report: Figures) -> Iterator[tuple[str, str]]:
    yield "asked", tell_options(report.asked)
    flops, params, size = (
        " of ".join(reversed(in_one_unit(*pair)))
        for pair in (report.flops, report.params, report.bytes)
    )
    yield "got", f"{_share(report.flops)} of the FLOPs: {flops}"
    yield "", f"{_share(report.params)} of the parameters: {params}; bytes: {size}"
    yield from _promise(report.agreement, report.predicted_error, report.asked.get(PARTS))
    if report.recovery is not None:
        before, after = report.recovery.certified
        yield "recovered", f"by training: {before:.2%} before, {after:.2%} after"
    yield "took", _took(report)
    yield "next", say_next(report)


def _promise(
    agreement: Agreement | None, predicted: float, parts: str | None
) -> Iterator[tuple[str, str]]:
    if agreement is None:
        if parts is None:
            yield "decision", "not compared: no calibration example was held out"
        else:
            yield "decision", "of each part its own, see the notes; not of the whole model"
        yield "agreement", "unknown"
        yield "bound", "none"
        yield "error", f"{predicted:.1e} predicted before fitting"
        return
    a = agreement
    yield "decision", _shorten(a.decision or "unknown")
    yield "agreement", f"the same decision on {a.rate:.2%} of {a.examples} held-out {a.unit}s"
    yield "bound", f"at least {a.bound:.2%}, with 95 % confidence (Clopper-Pearson)"
    yield (
        "error",
        f"{a.error:.1e} of the output, squared and relative; {predicted:.1e} predicted",
    )


def _took(report: Figures) -> str:
    memory = f"{report.peak_memory / 1e6:,.0f} MB at peak"
    if not report.seconds:
        return memory
    longest = max(report.seconds, key=lambda station: report.seconds[station])
    whole, most = sum(report.seconds.values()), report.seconds[longest]
    if report.passes is None:
        return f"{whole:.1f} s, most of it to {longest} ({most:.1f} s); {memory}"
    expected, took = report.passes
    forward = (whole - report.seconds.get("measure", 0.0)) / took if took else 0.0
    if not passes_tell(report.seconds, forward):
        told = f"{expected * forward:.1f} s expected"
        return f"{whole:.1f} s ({longest} {most:.1f}; {told}); {memory}"
    told = f"{took:.1f} forward passes ({expected:.1f} expected)"
    return f"{whole:.1f} s ({longest} {most:.1f}), {told}; {memory}"


def tell_options(asked: Mapping[str, str]) -> str:
    """What was asked for, as one would write the call."""
    return _shorten(", ".join(f"{name}={value}" for name, value in asked.items()) or "unknown")


def say_next(report: Figures) -> str:
    """What to do next."""
    agreement = report.agreement
    if PARTS in report.asked and agreement is None:
        return "compare the whole model with the original on examples of your own"
    if agreement is None:
        return "give more calibration examples, some of which can be held out"
    if any(QUESTION in note for note in report.notes):
        return "say what a decision is (decision=), see the note, and compress again"
    if agreement.rate < LOW:
        return "ask for agreement=0.99 or larger flops=, more examples, or fine-tune"
    if agreement.rate == 1 and agreement.bound < LOOSE:
        return f"more examples tighten the bound: {CERTIFIES} that all agree certify 99 %"
    return "fxprune.save(small, path), fxprune.benchmark(small, model, example)"


def _share(sizes: tuple[float, float]) -> str:
    before, after = sizes
    return f"{after / max(before, 1):.1%}"


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
