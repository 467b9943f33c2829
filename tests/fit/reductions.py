"""A model recorded on some examples and reduced, as fits take it."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from fxprune.calibrate.batching import in_order
from fxprune.calibrate.moments import InputMoments, Site, collect_moments
from fxprune.calibrate.recording import Recording
from fxprune.calibrate.spill import Spill
from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.fit.reduction import Reduction
from fxprune.label.analysis import analyze_graph
from fxprune.label.groups import Analysis
from fxprune.label.keep import keep_first
from fxprune.passes import ReduceChannels


@dataclass(frozen=True)
class Recorded:
    """What a fit works on.

    Attributes:
        reduction: the captured graph and the reduced one.
        recording: of the captured graph's outputs.
        moments: of what its consumers read.
        store: where the recording lies.
    """

    reduction: Reduction
    recording: Recording
    moments: dict[Site, InputMoments]
    store: Spill


def keep_share(analysis: Analysis, share: float) -> np.ndarray:
    """The keep mask of the first channels of every block."""
    return keep_first(analysis, [int(share * group.width) for group in analysis.groups])


def record(
    model: nn.Module, examples: Tensor, share: float, memory: float = 1e9, batch: int = 50
) -> Recorded:
    """Remove channels from a model and run the original over the examples."""
    captured = capture(model.eval(), make_batch((examples[:2],), {}))
    analysis, store = analyze_graph(captured.graph, 2), Spill(memory)
    keep_mask = keep_share(analysis, share)
    reduced = ReduceChannels(analysis, keep_mask)(captured.graph).graph_module
    recording = Recording(captured.graph, len(examples), store)
    batches = (make_batch((part,), {}) for part in examples.split(batch))
    moments = collect_moments(
        captured.graph,
        analysis,
        recording.follow("", in_order(batches)),
        len(examples),
        recording.watch,
    )
    return Recorded(
        Reduction(captured.graph, reduced, analysis, keep_mask), recording, moments, store
    )
