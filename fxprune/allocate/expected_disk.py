"""What a checkpoint will take on the disk, at most, before anything is written."""

from collections.abc import Collection, Iterator

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fxprune.calibrate.moments import sites
from fxprune.calibrate.recording import VALIDATION
from fxprune.calibrate.strata import strata
from fxprune.graph.nodes import attribute
from fxprune.label.groups import Analysis
from fxprune.label.layers import MOST_OUTPUTS, factorable
from fxprune.session import Session

FLOAT = 8
"""Bytes of a number in double precision."""
HEADERS = 1 << 20
"""Bytes of names and digests, and what removal orders and decisions take."""


def expect_disk(session: Session) -> float:
    """Bytes that the steps of a run take together, at most.

    Args:
        session: opened, with nothing observed yet.
    """
    tensors: list[Tensor] = list(session.graph.state_dict().values())
    model = sum(t.numel() * t.element_size() for t in tensors)
    # The fitted layers of a certified size stay until those of the next one are certified.
    sizes = 1 if session.options.budget.agreement is None else 2
    found = float(HEADERS + (sizes + 1) * model)
    found += sum(_statistics(session, session.analysis, _rotatable(session)))
    streams = session.streams.analysis if session.may_rotate_streams else None
    if streams is not None:
        found += sum(_statistics(session, streams, streams.rotatable))
    return found


def _rotatable(session: Session) -> tuple[str, ...]:
    """Names of the groups that are tried in new coordinates."""
    return session.statistics.marked.rotatable if session.may_rotate else ()


def _statistics(
    session: Session, analysis: Analysis, rotatable: Collection[str]
) -> Iterator[float]:
    """Of every kind of statistics.

    Args:
        session: whose graph is observed.
        analysis: of its graph, or of that with rotated streams, of which the weights are as large.
        rotatable: names of groups that are tried in new coordinates.
    """
    graph, split = session.graph, session.split
    for site in sites(analysis):
        # With the validation split and without it.
        yield 2 * FLOAT * sum(len(s.keys) ** 2 for s in strata(analysis.axes[site]))
        outputs = len(attribute(graph, site[0]))
        yield FLOAT * outputs**2 if outputs <= MOST_OUTPUTS else 0
    if session.options.method.ranks:
        for name in factorable(graph, session.ignored)[0]:
            yield (1 + bool(rotatable)) * FLOAT * (len(attribute(graph, name)) + 1) ** 2
    groups = {group.name: group for group in analysis.groups}
    for name in rotatable:
        yield 2 * FLOAT * groups[name].channels ** 2
    yield session.statistics.empty_recording().expected_bytes
    example = session.captured.example
    with torch.no_grad():
        leaves = pytree.tree_leaves(graph.forward(*example.args, **example.kwargs))
    held = sum(t.numel() * t.element_size() for t in leaves if isinstance(t, Tensor))
    yield held / example.size * int(split.part(VALIDATION).sum())
