"""Whole graphs measured against the original."""

import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule

from fxprune.capture.batch import Batch
from fxprune.label.groups import Analysis
from fxprune.label.keep import keep_first
from fxprune.passes import LiftModules, ReduceChannels
from fxprune.timing.clock import time_in_turns
from fxprune.timing.workload import Call, Workload, ask_measure, prepare_call, use_settings

ROUNDS, TURN = 11, 0.1
"""Interleaved rounds of a whole graph and the original, and seconds of a turn."""


class LatencyProbe:
    """Measures models against one original on one workload.

    Args:
        model: the original; a copy is kept, compiled where the workload is.
        example: a batch of its inputs.
        workload: what both run on, or who measures them.

    Raises:
        UnsupportedError: the original does not run on the workload, or cannot be measured.
    """

    def __init__(self, model: nn.Module, example: Batch, workload: Workload):
        self.model, self.example, self.workload = model, example, workload
        with use_settings(workload):
            if workload.measure is not None:
                ask_measure(workload.measure, model)  # what goes wrong goes wrong at once
            self.device = torch.device(workload.device or next(model.parameters()).device)
            self._original: Call = prepare_call(model, example, workload)
            self.seconds = float(np.median(time_in_turns([self._original], ROUNDS, TURN)))

        self._known: dict[tuple[int, ...], float] = {}

    def ratio(self, small: nn.Module) -> float:
        """Time of a model over the original's: the median over interleaved rounds; where a caller
        measures, one of each, back to back.
        """
        measure = self.workload.measure
        with use_settings(self.workload):
            if measure is not None:
                return ask_measure(measure, small) / ask_measure(measure, self.model)
            times = time_in_turns(
                [prepare_call(small, self.example, self.workload), self._original], ROUNDS, TURN
            )
        return float(np.median(times[:, 0] / times[:, 1]))

    def ratio_at(self, graph: GraphModule, analysis: Analysis, widths: np.ndarray) -> float:
        """`ratio` of the rewritten graph, measured once for the same widths."""
        key = tuple(int(w) for w in widths)
        if key not in self._known:
            keep_mask = keep_first(analysis, widths)
            reduced = ReduceChannels(analysis, keep_mask)(graph).graph_module
            self._known[key] = self.ratio(LiftModules()(reduced).graph_module)
        return self._known[key]
