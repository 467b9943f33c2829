"""Whether the captured graph answers for the model on everything that the loader gives."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from fxprune.calibrate.joined import Sizes, sizes_of
from fxprune.calibrate.loader import Calibration
from fxprune.calibrate.near_duplicates import warn_of_near_duplicates
from fxprune.calibrate.observe import require_finite
from fxprune.capture.batch import Batch
from fxprune.capture.copying import run_copy
from fxprune.capture.export import Captured
from fxprune.errors import CalibrationError, UnsupportedError

ROUNDING = 1000
"""Units of the last place, of the largest value, up to which two runs count as the same."""
ROUGH = 0.05
"""Share of the largest value that is never taken for rounding."""
TRIED = 8
"""Combinations of sizes that are tried."""
LOOKED_AT = 8
"""Examples on which every layer is checked for values that are not finite."""


@torch.no_grad()
def random_outputs(graph: GraphModule, model: nn.Module, batch: Batch) -> str | None:
    """What of a model is random: two runs on the same inputs are compared.

    Args:
        graph: captured of the model.
        model: the caller's; a copy in eval mode runs.
        batch: a few examples.

    Returns:
        a sentence for the report; None where both runs give the same.
    """
    first, second = (graph.forward(*batch.args, **batch.kwargs) for _ in range(2))
    apart = _difference(first, second)
    if not apart > 0:
        apart = run_copy(model, partial(_difference_of_runs, batch=batch))
    if not apart > 0:
        return None
    return (
        f"the model is random: on the same inputs in eval mode its outputs change by {apart:.1%} "
        "of their largest value from run to run (dropout that is left on, noise in forward)"
    )


def _difference_of_runs(model: nn.Module, batch: Batch) -> float:
    return _difference(*(model(*batch.args, **batch.kwargs) for _ in range(2)))


@torch.no_grad()
def require_axes(example: Batch, batch: Batch) -> None:
    """Check that what is traced on has as many axes as what is calibrated on.

    Args:
        example: the caller's, as a batch.
        batch: of the calibration examples.

    Raises:
        CalibrationError: it has others; layers that take any number of axes would hide it.
    """
    for own, given in zip(example.tensors(), batch.tensors(), strict=False):
        if own.dim() != given.dim():
            wanted = ", ".join(map(str, ("N", *given.shape[1:])))
            raise CalibrationError(
                f"example= has a tensor of shape {tuple(own.shape)} where the calibration batches "
                f"have ({wanted}): give it with the batch axis, and the axes that "
                "the loader's examples have, or leave it out."
            )


@torch.no_grad()
def require_sizes(
    graph: GraphModule, model: nn.Module, calibration: Calibration, values: bool = True
) -> None:
    """Check that the graph gives what the model gives at every combination of sizes.

    Args:
        graph: captured of the model.
        model: the caller's; a copy in eval mode runs.
        calibration: the examples; no more than a few of their combinations of sizes are tried, the
            smallest and the largest among them.
        values: outputs must be the same, not only of the same shape.

    Raises:
        CalibrationError: names the sizes that the graph cannot take.
    """
    batches = sorted(calibration.shapes(), key=lambda pair: _elements(pair[0]))
    if len(batches) == 1 and sizes_of(calibration.example) == batches[0][0]:
        return
    failed = run_copy(model, partial(_failed, graph, _spread(batches), values))
    if failed:
        raise CalibrationError(
            "The calibration batches come in several sizes, and the captured graph holds those of "
            f"its example, {_named(sizes_of(calibration.example))}, as numbers: on "
            f"{', '.join(map(_named, failed))} {next(iter(failed.values()))}. Give all batches the "
            "same sizes: resize or crop images, pad sequences to one length (tokenizers: "
            "padding='max_length')."
        )


def _failed(
    graph: GraphModule, batches: Iterable[tuple[Sizes, Batch]], values: bool, model: nn.Module
) -> dict[Sizes, str]:
    """Sizes at which a graph does something else than a copy of the model, and what.

    Raises:
        CalibrationError: the model itself does not run.
    """
    failed: dict[Sizes, str] = {}
    for sizes, batch in batches:
        wanted = _run(model, batch)
        if isinstance(wanted, Exception):
            raise CalibrationError(
                f"The model does not run on the calibration batches of sizes {_named(sizes)}: "
                f"{type(wanted).__name__}: {wanted}"
            ) from wanted
        found = _run(graph.forward, batch)
        if isinstance(found, Exception):
            failed[sizes] = "it cannot take them"
        elif _difference(wanted, found) > (0 if values else 1e300):
            failed[sizes] = "it gives something else than the model"
    return failed


def _run(call: Callable[..., Any], batch: Batch) -> Any:
    """What a call gives, or the exception it raises."""
    try:
        return call(*batch.args, **batch.kwargs)
    except Exception as error:  # whatever a model raises
        return error


def _spread(batches: list[tuple[Sizes, Batch]]) -> Iterable[tuple[Sizes, Batch]]:
    """At most `TRIED` of them, the first and the last included."""
    if len(batches) <= TRIED:
        return batches
    return [batches[i * (len(batches) - 1) // (TRIED - 1)] for i in range(TRIED)]


def _difference(first: Any, second: Any) -> float:
    """Largest difference of two outputs, relative to their largest value; 0 where it is rounding,
    infinite where they are of different kinds.
    """
    pairs = [pytree.tree_leaves(output) for output in (first, second)]
    if len(pairs[0]) != len(pairs[1]):
        return float("inf")
    worst = 0.0
    for a, b in zip(*pairs, strict=True):
        if not isinstance(a, Tensor) or not isinstance(b, Tensor) or not a.numel():
            continue
        if a.shape != b.shape:
            return float("inf")
        worst = max(worst, _relative(a, b))
    return worst


def _relative(a: Tensor, b: Tensor) -> float:
    rounding = 0.0
    if a.is_floating_point():
        rounding = min(ROUNDING * torch.finfo(a.dtype).eps, ROUGH)
    a, b = a.double(), b.double()
    # What is infinite or NaN in both is the same.
    change = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs()).max()
    largest = torch.where(a.isfinite(), a.abs(), 0.0).max()
    apart = float(change / largest.clamp(min=torch.finfo(torch.float64).tiny))
    return 0.0 if apart <= rounding else apart


def _elements(sizes: Sizes) -> int:
    return sum(torch.Size(size).numel() for size in sizes)


def _named(sizes: Sizes) -> str:
    return " and ".join(map(str, sizes))


def examine(
    captured: Captured,
    model: nn.Module,
    calibration: Calibration,
    agreement: float | None,
    grouped: bool,
    seed: int,
) -> tuple[list[str], bool]:
    """Whether the graph takes what the loader gives, the model always gives the same, and the
    examples differ.

    Args:
        captured: of the model.
        model: the caller's; a copy in eval mode runs.
        calibration: the examples.
        agreement: that is to be certified, if any.
        grouped: the caller says which examples belong together.
        seed: of the examples that are compared.

    Returns:
        what the report should say, and whether it is still open if the examples differ.

    Raises:
        CalibrationError: batches have sizes that the graph does not take.
        UnsupportedError: agreement is asked for and the model is random.
    """
    random = random_outputs(captured.graph, model, captured.example)
    require_sizes(captured.graph, model, calibration, values=random is None)
    if random is not None and agreement is not None:
        raise UnsupportedError(
            f"agreement={agreement:g} cannot be certified: {random}. Switch that off in eval mode, "
            "or ask for flops= or params=."
        )
    notes = [] if random is None else [f"{random}: the agreement is that of single runs"]
    if grouped:
        return notes, False
    near = warn_of_near_duplicates(calibration, seed)
    return (notes, True) if near is None else ([*notes, near], False)


def look_at(graph: GraphModule, calibration: Calibration) -> None:
    """Check a few examples for values that are not finite, before any work.

    Raises:
        CalibrationError: names the first call that gives some.
    """
    first = next(iter(calibration.batches()))
    looked_at = calibration.exact or min(first.size, LOOKED_AT)
    require_finite(graph, first.part(0, looked_at).channels_last())
