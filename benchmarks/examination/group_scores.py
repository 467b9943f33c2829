"""What scores say of a channel group before anything is cut, and what cutting it alone costs."""

import numpy as np

from benchmarks.examination.outputs import logits
from fxprune.fit.build import build
from fxprune.label.keep import keep_last
from fxprune.linalg.pivoted_qr import pivoted_qr
from fxprune.plans.methods import METHODS
from fxprune.session import Session

SCORES = ("|r_kk/r_11|", "|R22|/|R|", "dropped singular values", "predicted error")


def group_scores(session: Session, keep: float) -> list[tuple[str, tuple[float, ...]]]:
    """By group, its `SCORES` at a share of its channels and the measured output error."""
    statistics = session.statistics
    ours, paper = statistics.profiles("output-aware"), statistics.profiles("pivoted-qr")
    moments = statistics.observed.all_moments
    interpolated = session.using(method=METHODS["paper-uniform"])
    orders = [profile.order for profile in ours]
    full = np.array([g.width for g in session.analysis.groups])
    held_out = next(iter(statistics.batches(session.split.held_out)))
    reference = logits(session.graph, held_out.args[0])
    norm = float((reference - reference.mean(1, keepdim=True)).square().sum())
    rows: list[tuple[str, tuple[float, ...]]] = []
    for i, group in enumerate(session.analysis.groups):
        sites = ((c.parameter, c.axis) for c in group.consumers)
        site = next((site for site in sites if site in moments), None)
        width = max(round(keep * group.width), 1)
        if site is None or width == group.width:
            continue
        widths = full.copy()
        widths[i] = width
        small = build(interpolated, keep_last(session.analysis, orders, widths))
        error = float((logits(small, held_out.args[0]) - reference).square().sum()) / norm
        gram = moments[site].grams[0]
        diagonal = pivoted_qr(gram)[1]
        singular = np.sqrt(np.clip(np.linalg.eigvalsh(gram)[::-1], 0, None))
        place = max(round(keep * len(gram)), 1)
        values = (
            float(paper[i].scores[group.width - width]),
            float(np.linalg.norm(diagonal[place:]) / np.linalg.norm(diagonal)),
            float(np.linalg.norm(singular[place:]) / np.linalg.norm(singular)),
            float(ours[i].errors[group.width - width]),
            error,
        )
        rows.append((group.name, values))
    return rows
