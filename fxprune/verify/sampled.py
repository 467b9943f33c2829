"""What a captured graph decides, and where its tokens are, settled on a few examples."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.fx import GraphModule

from fxprune.calibrate.observe import at_inputs
from fxprune.calibrate.padding import EVERYWHERE, Mask, Padding, find_padding, read_mask
from fxprune.capture.batch import Batch
from fxprune.capture.export import Captured
from fxprune.verify.judge import Decision, Judge, settle
from fxprune.verify.outputs import floating, name_leaves
from fxprune.verify.tokens import find_next_tokens

MOST_JUDGED = 1 << 24
"""Values of outputs that are enough to see what a model decides."""
UNPLACED = "padding counts like tokens: the trace holds the number of examples or the length"


@torch.no_grad()
def settle_on(graph: GraphModule, batches: Iterable[Batch], decision: Decision) -> Judge:
    """Fix what is judged and by which rules.

    Args:
        graph: captured.
        batches: examples of it, one at least.
        decision: the caller's; None to infer it.

    Raises:
        UnsupportedError: as `settle`.
    """
    samples, values, known = list[tuple[Any, int]](), 0, None
    for batch in batches:
        output = at_inputs(graph)(*batch.args, **batch.kwargs)
        known = find_next_tokens(graph, batch, output) if known is None else known
        samples.append((batch.cut_outputs(output), batch.own))
        values += sum(tensor.numel() for tensor in floating(output).values())
        if values > MOST_JUDGED:
            break
    return settle(decision, samples, known or {})


def padding_of(captured: Captured, mask: Mask, note: Callable[[str], None]) -> Padding:
    """Where a graph has the tokens of its inputs.

    Args:
        captured: the graph.
        mask: the caller's.
        note: told where a mask says which of them are padding, and the trace not where they go.
    """
    real = read_mask(captured.example, mask)
    if real is None:
        return EVERYWHERE
    graph = captured.graph.graph
    given = graph.output_node().args[0]
    places = list(range(len(given) if isinstance(given, (tuple, list)) else 1))
    names = name_leaves(graph.process_outputs(places))
    padding = find_padding(captured.graph, real.shape[1], names)
    if not padding.axes:
        note(UNPLACED)
    return padding
