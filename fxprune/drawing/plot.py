"""`fxprune.plot`: needs matplotlib (`pip install fxprune[plot]`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from fxprune.drawing.channels import draw_channels
from fxprune.drawing.channels import size_of as size_of_channels
from fxprune.drawing.lanes import lay_out
from fxprune.drawing.layers import draw_report
from fxprune.drawing.layers import size_of as size_of_report
from fxprune.drawing.style import styled
from fxprune.drawing.tradeoff import draw_sweeps
from fxprune.errors import PlanError, StorageError, UnsupportedError
from fxprune.handover.report import Report, report
from fxprune.label.groups import Analysis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = Mapping[float, nn.Module | Report]
"""What `fxprune.sweep` returns, or the reports of that."""
SWEEP = 9.0, 4.0
"""Inches that the picture of a sweep takes."""


def plot(
    what: Curve | Mapping[str, Curve] | nn.Module | Report | Analysis,
    file: str | Path | None = None,
) -> "Figure":
    """Draw a trade-off, a report or a channel graph.

    Args:
        what: to draw:
            what `sweep` returned, or several of these by name: decisions that changed, with their
            95 % bound, and the error of the output against the FLOPs kept, on logarithmic axes;
            a compressed module or its report: the width of every channel group before and after,
            and its predicted and measured error;
            what `analyze` returned: which layers make and read every channel group.
        file: where to write the picture; its suffix decides the format.

    Returns:
        a matplotlib Figure, which a notebook shows. pyplot is not imported.

    Raises:
        UnsupportedError: matplotlib is missing.
        PlanError: it is none of these, or a model does not come from fxprune.
        StorageError: the file cannot be written.
    """
    try:
        from fxprune.drawing.picture import new_picture
    except ImportError as error:
        raise UnsupportedError(
            f'plot draws with matplotlib ({error}): pip install "fxprune[plot]", or pip install '
            "matplotlib."
        ) from error
    with styled():
        if isinstance(what, Analysis):
            lanes = lay_out(what)
            figure = new_picture(*size_of_channels(lanes))
            draw_channels(figure, lanes, len(what.pinned))
        elif isinstance(what, (nn.Module, Report)):
            own = _report(what)
            figure = new_picture(*size_of_report(own))
            draw_report(figure, own)
        else:
            curves = {
                name: [_report(small) for small in curve.values()]
                for name, curve in _named(what).items()
            }
            figure = new_picture(*SWEEP)
            draw_sweeps(figure, curves)
        if file is not None:
            _write(figure, file)
    return figure


def _write(figure: "Figure", file: str | Path) -> None:
    try:
        figure.savefig(Path(file))
    except (OSError, ValueError, TypeError) as error:
        raise StorageError(
            f"The picture cannot be written to {file!r}: {error}. Name a file such as "
            "curve.png in a folder that exists."
        ) from error


def _report(what: Any) -> Report:
    return what if isinstance(what, Report) else report(what)


def _named(curves: Any) -> Mapping[str, Curve]:
    """Curves by name; the only one has none."""
    if isinstance(curves, Mapping):
        named = curves if all(isinstance(k, str) for k in curves) else {"": curves}
        if all(isinstance(curve, Mapping) for curve in named.values()):
            return named
    raise PlanError(
        f"plot draws what sweep, compress, report or analyze returned, or a dict of several sweeps "
        f"by name, and no {type(curves).__name__}."
    )
