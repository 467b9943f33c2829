"""What comes of an entry: each of its variants captured, analyzed, and its labels held to what they
claim.
"""

import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import torch

from benchmarks.opinfo.claims import Claims, Unstable, Violation
from benchmarks.opinfo.nets import MADE, OperatorNet
from benchmarks.opinfo.variant import Variant
from benchmarks.opinfo.variants import Entry, NotApplicable, variants
from fxprune.capture.batch import make_batch
from fxprune.capture.export import Captured, capture
from fxprune.errors import FxpruneError
from fxprune.label.analysis import analyze_graph
from fxprune.label.coupling import solve
from fxprune.label.groups import Analysis
from fxprune.label.keep import keep_random
from fxprune.label.propagation import Propagation
from fxprune.label.trial import conflicts

Verdict = Literal["error", "wrong", "caught", "known", "pinned", "refused", "not applicable"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""The first that one of an entry's variants gets is the entry's."""
MUST_BE_NONE = VERDICTS[:3]


@dataclass(frozen=True)
class Tried:
    """What came of one variant.

    Attributes:
        verdict: as for the entry.
        variant: its call.
        text: the reason, the error, or the groups.
    """

    verdict: Verdict
    variant: str
    text: str


@dataclass(frozen=True)
class Outcome:
    """What came of an entry.

    Attributes:
        name: of the entry.
        verdict: channels pass and all claims hold (known), they stay (pinned), a claim is false
            (wrong), a rule's claim was found false by the trial of the analysis (caught), capture
            says no (refused), there is nothing to try (not applicable), anything else (error).
        text: the reason.
        tried: its variants.
    """

    name: str
    verdict: Verdict
    text: str
    tried: tuple[Tried, ...] = field(default=())


def judge(name: str, op: Entry, most: int, seed: int) -> Outcome:
    """Try up to `most` variants of an entry, and its other names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = variants(op, most, seed)
        except NotApplicable as reason:
            return Outcome(name, "not applicable", str(reason))
        except Exception as error:
            return Outcome(name, "not applicable", f"its samples do not run here: {_line(error)}")
        tried = tuple(try_variant(v, seed + i, free=not i and v.whole) for i, v in enumerate(found))
    return summarize(name, tried)


def summarize(name: str, tried: tuple[Tried, ...]) -> Outcome:
    """The gravest of the verdicts, and the reasons for it from the commonest on."""
    verdict = min((t.verdict for t in tried), key=VERDICTS.index)
    reasons = Counter(t.text for t in tried if t.verdict == verdict)
    return Outcome(name, verdict, reasons.most_common(1)[0][0], tried)


def try_variant(variant: Variant, seed: int, free: bool = True) -> Tried:
    """Capture a net around the operator, analyze it and check what the labels claim."""
    shown = str(variant)
    torch.manual_seed(seed)
    net = OperatorNet(variant, flat=bool(seed % 2)).eval()
    inputs = net.inputs()
    try:
        batch = make_batch(inputs, {})
        captured = capture(net, batch if free else replace(batch, size=-1))
    except FxpruneError as error:
        return Tried("refused", shown, _reason(error))
    except Exception as error:
        return Tried("error", shown, _where(error))
    try:
        return _analyzed(variant, captured, inputs, shown, seed)
    except FxpruneError as error:
        return Tried("refused", shown, _reason(error))
    except Exception as error:
        return Tried("error", shown, _where(error))


def _analyzed(
    variant: Variant, captured: Captured, inputs: tuple[torch.Tensor, ...], shown: str, seed: int
) -> Tried:
    batch = len(inputs[0])
    caught = contradiction(captured, batch)
    analysis = analyze_graph(captured.graph, batch)
    moving = [g for g in analysis.groups if any(p.startswith(f"{MADE}.") for p, _ in g.members)]
    try:
        Claims(captured.graph, analysis, inputs).check(seed)
    except Violation as violation:
        return Tried("wrong", shown, str(violation))
    except Unstable as reason:
        return Tried("not applicable", shown, str(reason))
    if caught:
        return Tried("caught", shown, caught)
    if moving:
        return Tried("known", shown, "; ".join(str(analysis).splitlines()))
    return Tried("pinned", shown, pinned_reason(analysis))


def contradiction(captured: Captured, batch: int) -> str:
    """What the rules claim and the trial of the analysis finds false, before anything is mended;
    empty where nothing is.
    """
    run = Propagation(captured.graph, lambda name: False, whole_heads=True)
    run.run()
    analysis = solve(captured.graph, run, batch).analysis
    if not analysis.groups:
        return ""
    found = conflicts(captured.graph, analysis, keep_random(analysis, np.random.default_rng(0)))
    return str(found[0]) if found else ""


def pinned_reason(analysis: Analysis) -> str:
    """Why what the layers before the operator make stays."""
    reasons = [
        p.reason for p in analysis.pinned if p.parameter.startswith(f"{MADE}.") and not p.axis
    ]
    return reasons[0] if reasons else "kernel positions of a convolution"


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {_reason(error)}"[:200]


def _where(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{_line(error)} ({frame.name}, {frame.filename.rsplit('/', 1)[-1]}:{frame.lineno})"
