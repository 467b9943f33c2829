"""Outcomes as a page of the documentation."""

from collections import Counter
from collections.abc import Sequence

import torch

from benchmarks.opinfo.outcome import VERDICTS, Outcome, Verdict

MEANS: dict[Verdict, str] = {
    "known": "channels pass, and every claim about them held",
    "pinned": "its channels stay, with the reason that the report gives",
    "refused": "the capture, or the analysis before any work, says that it cannot take the model",
    "not applicable": "no channels can be led through it, or its values cannot be compared",
    "caught": "a rule's claim was false and the trial of the analysis noticed; must be none",
    "wrong": "a claim does not hold; must be none",
    "error": "anything else; must be none",
}
LONGEST = 160
"""Characters of a reason, and of a call."""

HEAD = """# Every operator of torch's test database

`python -m benchmarks.operators --variants {most} --out docs/operators.md` puts each of the
{entries} entries of torch's OpInfo database between layers, *linear -> operator -> linear*, in
float64: up to {most} of the entry's own samples, of different ranks and arguments, with channels
along different axes, and with one or all of the operator's tensors made by layers; and one of them
in place and under each other name that the operator has. The layers before the operator are chosen
such that it gets exactly its sample, so that nothing leaves what it can take. The first net of an
entry leaves its batch size free where layers make all tensors.

What the labels claim is checked by perturbation, and by neither the trial of the analysis nor
`fxprune.masked`:

- the rows that make removed channels get other values: no element that the labels call kept may
  change, in any tensor up to the outputs;
- the reduced net must give what the original gives with zeros where removed channels are read.

Where a product sums over the channels of two tensors that layers make, the zeros stand in both
factors, and one factor's layer at a time gets other values. Where a norm, a sum or a mean is taken
over channels, the zeros stand in what makes them, and only other layers get other values.

Both are asked of {masks} random choices of what stays in every group. An entry's outcome is that of
its gravest net, errors first; it is known if channels pass in one.

| outcome | entries | meaning |
| --- | ---: | --- |
{counts}

{variants} nets, on a 2-core AMD EPYC, CPU, torch {version}, {date}.

## By entry

`*` marks the axis of the channels; sizes in brackets are tensors. One call stands for all that were
tried.

| entry | outcome | nets | a call | channel groups, or the reason |
| --- | --- | --- | --- | --- |
{rows}
"""


def page(outcomes: Sequence[Outcome], most: int, masks: int, date: str) -> str:
    """Markdown: counts first, then a row per entry."""
    counts = Counter(outcome.verdict for outcome in outcomes)
    return HEAD.format(
        entries=len(outcomes),
        variants=sum(len(outcome.tried) for outcome in outcomes),
        version=torch.__version__.partition("+")[0],
        most=most,
        masks=masks,
        date=date,
        counts="\n".join(f"| {v} | {counts[v]} | {MEANS[v]} |" for v in MEANS),
        rows="\n".join(_row(outcome) for outcome in outcomes),
    )


def _row(outcome: Outcome) -> str:
    tried = Counter(one.verdict for one in outcome.tried)
    nets = ", ".join(f"{tried[v]} {v}" for v in VERDICTS if tried[v]) or "none"
    shown = [one for one in outcome.tried if one.verdict == outcome.verdict]
    same = [one for one in shown if one.text == outcome.text] or shown
    call = f"`{_cell(same[0].variant)}`" if same else ""
    return f"| `{outcome.name}` | {outcome.verdict} | {nets} | {call} | {_cell(outcome.text)} |"


def _cell(text: str) -> str:
    """Text that a table can hold."""
    line = " ".join(text.split()).replace("|", "/").replace("`", "'")
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."
