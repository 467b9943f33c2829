"""Lift the calls back into layers and attach the report."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxprune.allocate.allocation import Allocation
from fxprune.calibrate.fingerprint import pack
from fxprune.capture.batch import Batch
from fxprune.graph.nodes import attribute
from fxprune.graph.tensors import own_memory, shared_names
from fxprune.handover.advice import advise
from fxprune.handover.asked import tell_asked
from fxprune.handover.left_alone import left_alone
from fxprune.handover.measured import measure_layers
from fxprune.handover.module import CompressedModule
from fxprune.handover.report import Report, attach
from fxprune.handover.rows import AloneRow, GroupRow, InputRow, Point
from fxprune.label.flops import count_flops
from fxprune.label.kept_statistics import KEPT, calls_that_keep_statistics
from fxprune.passes import LiftModules
from fxprune.plans.factoring import Factoring, bias_names, names
from fxprune.plans.plan import Plan, reduced_shape
from fxprune.session import Session
from fxprune.timing.clock import peak_resident_memory
from fxprune.verify.agreement import Agreement


def hand_over(
    session: Session,
    small: GraphModule,
    allocation: Allocation,
    agreement: Agreement | None,
    curve: Sequence[Point] = (),
) -> GraphModule:
    """Make the fitted graph an ordinary module that carries its plan and report.

    Args:
        session: it was made in.
        small: a fitted graph of ATen calls; changed in place.
        allocation: it was made by.
        agreement: on the held-out examples; None where there were none.
        curve: of the sizes that were tried on the way.
    """
    # A random model draws once more.
    key = (session.statistics.rotations, allocation.keep_mask, allocation.plan.factorings)
    with session.journal.station("verify"), torch.random.fork_rng(devices=[]):
        measured = session.journal.step(
            "errors of layers",
            key,
            dict[str, float],
            lambda: measure_layers(session, small, allocation.keep_mask),
        )
    graph, example = (session.unfolded or session).graph, session.captured.example
    with session.journal.station("hand over"):
        flops = (count_flops(graph, example), count_flops(small, example))
        small = CompressedModule.of(LiftModules()(small).graph_module).eval()
        # With the caller's model, and with other results of the session.
        own_memory(small, session.graph)
    plan = allocation.plan
    _freeze(small, session.captured.original.frozen, plan)
    rows = _rows(session, allocation, measured)
    notes = [*session.journal.notes, *_kept_statistics(session, allocation.keep_mask)]
    notes += _maps(plan)
    if "measured" in plan.settings:
        notes.append(f"measured latency: {plan.settings['measured']}")
    report = Report(
        flops=flops,
        params=(session.captured.original.parameters, sum(p.numel() for p in small.parameters())),
        bytes=(_bytes_before(session), _bytes(*small.parameters(), *small.buffers())),
        agreement=agreement,
        groups=rows,
        alone=_left_alone(session, plan, rows),
        seconds=dict(session.journal.seconds),
        peak_memory=peak_resident_memory(),
        notes=tuple(notes),
        method=plan.method,
        advice=advise(session, agreement),
        asked=tell_asked(session.options, plan),
        curve=tuple(curve),
        held_out=_held_out(session),
        passes=session.journal.passes,
        inputs=_inputs(example),
    )
    attach(small, report, plan)
    return small


def _kept_statistics(session: Session, keep_mask: np.ndarray) -> list[str]:
    """Which calls are no layers of fewer channels."""
    calls = calls_that_keep_statistics(session.graph, session.analysis, keep_mask)
    if not calls:
        return []
    more = f" and {len(calls) - 1} more" if len(calls) > 1 else ""
    return [f"{calls[0]}{more} {KEPT}"]


def _maps(plan: Plan) -> list[str]:
    """Which layers are new."""
    if not plan.maps:
        return []
    more = f" and {len(plan.maps) - 1} more" if len(plan.maps) > 1 else ""
    return [
        f"{plan.maps[0]}{more}: linear layers that the original does not have, for weights of "
        "norms that no other layer takes; what they cost is counted"
    ]


def _inputs(example: Batch) -> tuple[InputRow, ...]:
    """What the model was traced on, if that can be told by shapes."""
    if not example.is_plain:
        return ()
    named = [*(("", value) for value in example.args), *example.kwargs.items()]
    return tuple(
        InputRow(name, tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in named
    )


def _held_out(session: Session) -> str:
    """Fingerprints of the held-out examples."""
    marks = session.statistics.calibration.fingerprints
    return pack(marks[number] for number in np.flatnonzero(session.split.held_out))


def _rows(
    session: Session, allocation: Allocation, measured: Mapping[str, float]
) -> tuple[GroupRow, ...]:
    """A row per channel group, and per layer that became two."""
    plan, errors = allocation.plan, allocation.errors
    groups = (
        GroupRow(
            group.name,
            tuple(f"{parameter}[{axis}]" for parameter, axis in group.members),
            group.channels,
            plan.widths.get(group.name, group.width) * len(group.blocks),
            errors.get(group.name, 0.0),
            next((measured[p] for p, axis in group.members if axis == 0 and p in measured), None),
            group.name in plan.rotations,
        )
        for group in session.analysis.groups
    )
    layers = (
        replace(
            _factored_row(name, how, session, plan, errors.get(name, 0.0)),
            measured=measured.get(name),
        )
        for name, how in plan.factorings.items()
    )
    return (*groups, *layers)


def _factored_row(
    name: str, how: Factoring, session: Session, plan: Plan, error: float
) -> GroupRow:
    """Channels between two layers, before at the rank at which nothing is lost."""
    shape = reduced_shape(name, tuple(attribute(session.graph, name).shape), plan)
    first, second = names(name)
    blocks = how.groups * how.encoders
    return GroupRow(
        f"{name} as two layers",
        (f"{first}[0]", f"{second}[1]"),
        how.largest(shape) * blocks,
        how.rank * blocks,
        error,
    )


def _left_alone(session: Session, plan: Plan, rows: tuple[GroupRow, ...]) -> tuple[AloneRow, ...]:
    """Everything that kept its size, and why."""
    pinned = (
        AloneRow(f"{pin.parameter}[{pin.axis}]", pin.size, pin.reason)
        for pin in session.analysis.pinned
    )
    whole = (
        AloneRow(row.name, row.before, "the budget was met without it")
        for row in rows
        if row.before == row.after
    )
    layers = () if session.options.method.widths else left_alone(session, plan)
    return (*pinned, *whole, *layers)


def _freeze(small: nn.Module, frozen: frozenset[str], plan: Plan) -> None:
    """Parameters ask for a gradient where they did in the original, both of two layers as the one
    they were.
    """
    sources = {name: name for name, _ in small.named_parameters(remove_duplicate=False)}
    for weight in plan.factorings:
        first, second = names(weight)
        bias, moved = bias_names(weight) or ("", "")
        sources |= {first: weight, second: weight}
        sources |= {moved: bias} if moved in sources else {}
    for name in sources.keys() - shared_names(small).keys():
        small.get_parameter(name).requires_grad_(sources[name] not in frozen)


def _bytes(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _bytes_before(session: Session) -> int:
    """Of the original, with the constants that it holds in plain attributes."""
    original = session.captured.original
    constants = (t for name, t in session.graph.named_buffers() if name not in original.buffers)
    return original.bytes + _bytes(*constants)
