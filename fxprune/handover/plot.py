"""Trade-off curves as a picture; needs matplotlib (`pip install fxprune[plot]`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from fxprune.errors import PlanError, StorageError, UnsupportedError
from fxprune.handover.report import report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = Mapping[float, nn.Module]
"""What `fxprune.sweep` returns."""


def plot(curves: Curve | Mapping[str, Curve], file: str | Path | None = None) -> "Figure":
    """Draw held-out agreement, with its 95 % lower bound, and output error against the FLOPs kept.

    Args:
        curves: from `sweep`, or several by name.
        file: where to write the picture; its suffix decides the format.

    Raises:
        UnsupportedError: matplotlib is missing.
        PlanError: a model does not come from fxprune.
        StorageError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedError(
            f'plot draws with matplotlib ({error}): pip install "fxprune[plot]", or pip install '
            "matplotlib."
        ) from error
    named = _named(curves)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    for name, curve in named.items():
        reports = [report(small) for small in curve.values()]
        points = sorted(
            ((r.flops[1] / max(r.flops[0], 1), r.agreement) for r in reports if r.agreement),
            key=lambda point: point[0],
        )
        kept = [100 * share for share, _ in points]
        line = left.plot(kept, [100 * a.rate for _, a in points], "o-", label=name)[0]
        left.fill_between(
            kept,
            [100 * a.bound for _, a in points],
            [100 * a.rate for _, a in points],
            color=line.get_color(),
            alpha=0.15,
        )
        right.semilogy(kept, [max(a.error, 1e-12) for _, a in points], "o-", label=name)
    left.set(xlabel="FLOPs kept, %", ylabel="same decision, % of held-out examples")
    right.set(xlabel="FLOPs kept, %", ylabel="relative squared output error")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    if any(named):
        left.legend()
    if file is not None:
        try:
            figure.savefig(Path(file), dpi=150)
        except (OSError, ValueError, TypeError) as error:
            raise StorageError(
                f"The picture cannot be written to {file!r}: {error}. Name a file such as "
                "curve.png in a folder that exists."
            ) from error
    return figure


def _named(curves: Any) -> Mapping[str, Curve]:
    """Curves by name; the only one has none."""
    if isinstance(curves, Mapping):
        named = curves if all(isinstance(k, str) for k in curves) else {"": curves}
        if all(isinstance(curve, Mapping) for curve in named.values()):
            return named
    raise PlanError(
        f"curves is a {type(curves).__name__}: give what fxprune.sweep returned, or a dict of "
        "several by name."
    )
