"""For which architectures residual streams rotate: folded, in random new coordinates, and narrowed.

    python -m benchmarks.turned                 # every row of transformers in benchmarks.coverage
    python -m benchmarks.turned --only bert,swinv2 --markdown turned.md

Weights are random. The graph with folded norms and every stream in random orthonormal coordinates
must give what the original does; the last fifth of the coordinates gone, it must give what it does
with zeros in their place. In double precision to 1e-8 of the largest output, or in single to 1e-4
where a forward casts to that. Maps are put in however dear they are, and priced.
"""

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor
from torch.fx import GraphModule

from benchmarks.examination.isolation import Failed, isolated
from benchmarks.examination.masked import randomize
from benchmarks.examination.outputs import distance, outputs
from benchmarks.models.entries import entries
from benchmarks.models.entry import Entry
from fxprune.capture.batch import Batch, example_batch
from fxprune.capture.export import capture
from fxprune.errors import FxpruneError
from fxprune.graph.nodes import attribute
from fxprune.label.analysis import analyze_graph
from fxprune.label.groups import Analysis
from fxprune.label.keep import keep_all
from fxprune.label.turning import Basis
from fxprune.passes import ReduceChannels, Rotate
from fxprune.profile.folding import Streams
from fxprune.profile.streams import prepare_streams

LEFT = 0.8
"""Share of a stream's coordinates that stay."""
EXACT, CAST = 1e-8, 1e-4
"""Relative differences that are rounding, without and with a cast to single precision."""


@dataclass(frozen=True)
class Turned:
    """What became of one architecture's streams.

    Attributes:
        streams: that were rotated.
        normalized: groups whose channels are normalized in the original.
        maps: layers that were put in.
        added: share of the FLOPs that these cost.
        whole: relative error of the outputs at all coordinates.
        narrowed: that of the narrowed graph, with a fifth gone, to the one with zeros there.
        effect: relative difference of the latter to the original.
        exact: what counts as rounding.
        reasons: why others were not rotated.
    """

    streams: int
    normalized: int
    maps: int = 0
    added: float = 0.0
    whole: float = 0.0
    narrowed: float = 0.0
    effect: float = 0.0
    exact: float = EXACT
    reasons: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """Whether all is as it should be."""
        if not self.streams:
            return "selected"
        return "equal" if max(self.whole, self.narrowed) <= self.exact else "**DIFFERS**"


def turn(entry: Entry) -> Turned:
    """Build a model, rotate its streams, and compare."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, example = entry.build()
    model.eval()
    randomize(model)
    batch = example_batch(model, example)
    graph = capture(model, batch).graph
    casts = any(torch.float32 in (*n.args, *n.kwargs.values()) for n in graph.graph.nodes)
    if not casts:  # a norm between casts is another one in double precision
        batch = batch.map(lambda t: t.double() if t.is_floating_point() else t)
        graph = capture(model.double(), batch).graph
    analysis = analyze_graph(graph, batch.size)
    found = prepare_streams(graph, analysis, lambda name: False)
    reasons = tuple(dict.fromkeys(_short(reason) for reason in found.reasons.values()))
    if found.graph is None or found.analysis is None:
        return Turned(0, len(analysis.normalized), reasons=reasons)
    errors = _errors(graph, found.graph, found.analysis, found, batch)
    added = _flops(found.analysis) / _flops(analysis) - 1
    return Turned(
        len(found.centered),
        len(analysis.normalized),
        len(found.maps),
        added,
        *errors,
        CAST if casts else EXACT,
        reasons,
    )


def _errors(
    original: GraphModule, folded: GraphModule, analysis: Analysis, found: Streams, batch: Batch
) -> tuple[float, float, float]:
    """Of the rotated graph, of the narrowed one, and what narrowing does to the outputs."""
    draw, bases, keep_mask = np.random.default_rng(0), dict[str, Basis](), keep_all(analysis)
    for group in analysis.groups:
        if group.name in found.centered:
            matrix = np.linalg.qr(draw.standard_normal((group.width, group.width)))[0][None]
            bases[group.name] = Basis(matrix, matrix)
            keep_mask[group.blocks[:, max(1, int(LEFT * group.width)) :]] = False
    rotated = Rotate(analysis, bases)(folded).graph_module
    small = ReduceChannels(analysis, keep_mask)(rotated).graph_module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        full = copy.deepcopy(rotated)
    for (name, axis), ids in analysis.axes.items():
        tensor: Tensor = attribute(full, name).data
        gone = torch.from_numpy(~keep_mask[ids])
        if ids.ndim == 1 and bool(gone.any()):
            tensor.index_fill_(axis, gone.nonzero().flatten(), 0)
    wanted, zeros = outputs(original, batch), outputs(full, batch)
    whole = max(distance(wanted, outputs(g, batch)) for g in (folded, rotated))
    return whole, distance(zeros, outputs(small, batch)), distance(wanted, zeros)


def _flops(analysis: Analysis) -> float:
    return sum(term.amount for term in analysis.costs)


def _short(reason: str) -> str:
    """A reason without the names of one model's calls."""
    words = [word for word in reason.split(" (")[0].split(": ") if " " in word]
    return words[-1] if words else reason


def row(name: str, found: Turned | str) -> str:
    """A line of the table."""
    if isinstance(found, str):
        return f"| {name} | - | - | - | - | - | - | {found} |"
    errors = (found.whole, found.narrowed, found.effect)
    shown = " | ".join(f"{error:.0e}" if found.streams else "-" for error in errors)
    maps = f"{found.maps}, {found.added:.0%}" if found.maps else "-"
    why = "; ".join(found.reasons) or (
        "" if found.normalized or found.streams else "no norm reads a group of channels"
    )
    return f"| {name} | {found.streams} | {maps} | {shown} | {found.verdict} | {why} |"


def _attempt(entry: Entry) -> Any:
    try:
        return turn(entry)
    except FxpruneError as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"


def main(
    only: Annotated[str, typer.Option(help="Names that contain one of these (a,b).")] = "",
    limit: Annotated[int, typer.Option(help="Seconds per model.")] = 120,
    markdown: Annotated[Path | None, typer.Option(help="Write the table to a file.")] = None,
) -> None:
    """Rotate the streams of architectures of transformers; print a line each."""
    lines = [
        "| model | streams rotated | maps, FLOPs they add | error at all coordinates | with a "
        "fifth gone | what that does | | what is not rotated as it stands |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in entries(False, 0, True, False, False, False, 100.0, only):
        try:
            found = isolated(limit, _attempt, entry)
        except Failed as failed:
            found = str(failed)
        lines.append(row(entry.name, found))
        print(lines[-1], flush=True)
    if markdown:
        markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    typer.run(main)
