"""What a call is given, taken in: its examples and its model's graph, both compared with what a
checkpoint is of.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fxprune.calibrate.loader import Calibration
from fxprune.calibrate.reading import ignore_item
from fxprune.calibrate.soundness import examine, require_axes
from fxprune.calibrate.spill import Spill
from fxprune.calibrate.split import Split
from fxprune.capture.batch import device_of, example_batch, to_batch
from fxprune.capture.export import Captured, capture_either
from fxprune.distributed.group import ALONE, Group
from fxprune.distributed.together import current
from fxprune.errors import BudgetError, UnsupportedError
from fxprune.identity import require_examples, require_graph
from fxprune.label.analysis import activations, analyze_graph, examples_within
from fxprune.label.groups import Analysis
from fxprune.label.named import matcher
from fxprune.label.ties import repeated, tie
from fxprune.options import DEFAULTS, Options
from fxprune.progress import Journal
from fxprune.resume.steps import NOTHING_KEPT, Steps

CACHED = 1 << 25
"""Bytes of the largest activation of a batch, on a CPU: more do not fit into its last cache, and
the C library maps them anew for every call (docs/decisions/0014).
"""
DEAREST = 0.1
"""Share of the FLOPs that maps may add where `effort` is no more than by default: the search for
streams takes as long as all others, and dearer maps gained nothing (docs/decisions/0024).
"""


def open_journal(options: Options, steps: Steps = NOTHING_KEPT) -> Journal:
    """The journal of a call: of the ranks of a group, the first shows and logs.

    Args:
        options: what was asked for.
        steps: where what is done is kept; nowhere by default.
    """
    return Journal(bool(options.progress), steps, current().is_first)


@contextmanager
def reading(
    journal: Journal, watch: Callable[[Any, int], None] = ignore_item
) -> Iterator[Callable[[Any, int], None]]:
    """Show that a loader is read; gives what is to be called with everything that it yields and the
    number of examples in it, and calls `watch` likewise.
    """
    with journal.show("read") as advance:

        def watched(item: Any, examples: int) -> None:
            watch(item, examples)
            advance(examples)

        yield watched


def read_examples(
    model: nn.Module, loader: Any, options: Options, journal: Journal, group: Group = ALONE
) -> Calibration:
    """Read the loader; the ranks of a group each their own.

    Raises:
        CalibrationError: it cannot be used; says why.
        UnsupportedError, BudgetError: the work cannot be done on the device that is asked for.
        StorageError: its examples are not those of the checkpoint.
    """
    device = working_device(model, options)
    store, groups, mask = Spill(options.memory), options.groups, options.mask
    with reading(journal) as watch:
        calibration = Calibration(
            model, loader, store=store, groups=groups, watch=watch, mask=mask, group=group
        )
    calibration.device = device
    require_examples(journal.steps, calibration)
    return calibration


def working_device(model: nn.Module, options: Options) -> torch.device | None:
    """Where batches are brought for all work on them; None for where the model is.

    Raises:
        UnsupportedError: a device is asked for, and the model lies on several.
        BudgetError: likewise, and time is to be measured nobody says where.
    """
    device, workload = options.device, options.workload
    if device is None:
        return None
    home = device_of(model)
    if home is None:
        tensors = (*model.parameters(), *model.buffers())
        found = ", ".join(sorted({str(tensor.device) for tensor in tensors}))
        raise UnsupportedError(
            f"device={str(device)!r} is for a model that lies in one place, and this one lies on "
            f"{found}. Move all of it to the CPU, from where its weights are brought layer by "
            "layer, or leave device= out."
        )
    if home == device:
        return None
    if options.timed and workload.device is None:
        raise BudgetError(
            f"The model is on {home} and device={str(device)!r}: nobody says where time counts. "
            f"Name the device in the workload, such as fxprune.Workload(device={str(device)!r}), "
            'for which all of the model must fit there, or leave latency= and round_to="auto" out.'
        )
    return torch.device(device)


def capture_for(
    model: nn.Module,
    calibration: Calibration,
    options: Options,
    steps: Steps = NOTHING_KEPT,
) -> Captured:
    """Capture on two examples, or on as many as the model takes, which batches then have.

    Raises:
        StorageError: the graph is not that of the checkpoint.
    """
    given, usual = calibration.first()
    batch, example = calibration.example, options.example
    if example is not None:
        batch, given, usual = example_batch(model, example), to_batch(model, example), True
        require_axes(given, calibration.example)
    captured = capture_either(
        model, batch, given, usual, calibration.varied(), options.dynamic_shapes
    )
    require_graph(steps, captured.graph)
    calibration.exact = captured.fixed
    calibration.chunk = min(calibration.chunk, captured.most or calibration.chunk)
    return captured


def examine_for(
    captured: Captured, model: nn.Module, calibration: Calibration, options: Options
) -> tuple[list[str], bool]:
    """What a report should say of the data, and more, as `fxprune.calibrate.soundness.examine`."""
    grouped, agreement = options.groups is not None, options.budget.agreement
    return examine(captured, model, calibration, agreement, grouped, options.seed)


def label_for(
    captured: Captured, model: nn.Module, options: Options, journal: Journal
) -> tuple[Analysis, Callable[[str], bool]]:
    """The channel groups, and which parameters must keep their shape."""
    ignored = matcher(model, options.ignore, "ignore")
    with journal.station("label"):
        analysis = analyze_graph(captured.graph, captured.example.size, ignored)
    if options.uniform_across:  # two layers in place of one are no width that could be equal
        ignored = _everything
    return tie(analysis, repeated(model, analysis, options.uniform_across)), ignored


def _everything(name: str) -> bool:
    return True


def share_for_maps(captured: Captured, options: Options) -> float:
    """Share of the FLOPs that layers may add which the original does not have (`Plan.maps`)."""
    if not captured.example.is_plain:
        return 0.0
    return DEAREST if options.effort <= DEFAULTS.effort else math.inf


def cut_to_cache(calibration: Calibration, captured: Captured, analysis: Analysis) -> None:
    """Batches whose largest activation fits into a processor's cache."""
    where = calibration.device or captured.example.tensors()[0].device
    if where.type == "cpu":
        largest = max(activations(captured.graph, analysis), default=0.0)
        calibration.chunk = examples_within(CACHED, largest, calibration.chunk)


def tell_found(journal: Journal, split: Split, analysis: Analysis) -> None:
    """Log what there is to work with."""
    examples = len(split.held_out)
    journal.decide(
        "%d calibration examples: %d fit, %d are held out",
        *(examples, split.fitting, examples - split.fitting),
    )
    journal.decide(
        "%d channel groups; %d weight axes stay", len(analysis.groups), len(analysis.pinned)
    )
