"""`fxprune.analyze`: the channel groups of a model, without data."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.fx import GraphModule

from fxprune.capture.batch import example_batch, to_batch
from fxprune.capture.export import capture_either
from fxprune.capture.supported import check_model
from fxprune.capture.undisturbed import undisturbed
from fxprune.label.analysis import analyze_graph
from fxprune.label.groups import Analysis
from fxprune.label.named import matcher
from fxprune.label.rotatable import mark_rotatable
from fxprune.options import DEFAULTS, check_dynamic_shapes
from fxprune.profile.streams import prepare_streams


def analyze(
    model: nn.Module,
    example: Any,
    *,
    dynamic_shapes: Any = DEFAULTS.dynamic_shapes,
    ignore: Sequence[str] | str = DEFAULTS.ignore,
) -> Analysis:
    """Find the channel groups of a model; no data is read and no weight changed.

    Args:
        model: any module.
        example: a tensor, tuple or dict as `forward` takes it.
        dynamic_shapes: as for `compress`.
        ignore: names (globs) of modules and parameters that must keep their shape.

    Returns:
        the analysis; `str` of it is one line per group, `.to_networkx()` the coupling graph,
        `.rotatable` the groups whose channels may be mixed and `.unmixed` why others may not,
        maps taken to be worth their FLOPs.

    Raises:
        CaptureError: torch.export cannot trace the model.
        UnsupportedError: parameters on the meta device, quantized, or of an unsupported dtype.
    """
    check_model(model)
    check_dynamic_shapes(dynamic_shapes)
    with undisturbed(model, DEFAULTS.seed):
        captured = capture_either(
            model,
            example_batch(model, example),
            to_batch(model, example),
            dynamic_shapes=dynamic_shapes,
        )
        ignored = matcher(model, ignore, "ignore")
        analysis = analyze_graph(captured.graph, captured.example.size, ignored)
        return _mark(captured.graph, analysis, ignored)


def _mark(graph: GraphModule, analysis: Analysis, ignored: Callable[[str], bool]) -> Analysis:
    """What may be rotated as it is, or once the norms on it are folded; why the rest may not."""
    marked = mark_rotatable(graph, analysis)
    streams = prepare_streams(graph, analysis, ignored)
    names = {*marked.rotatable, *streams.centered}
    reasons = {**marked.unmixed, **streams.reasons}
    alike = [group.name for group in analysis.groups if group.name in names]
    return replace(
        marked,
        rotatable=tuple(dict.fromkeys([*alike, *streams.centered])),
        unmixed={name: reason for name, reason in reasons.items() if name not in names},
    )
