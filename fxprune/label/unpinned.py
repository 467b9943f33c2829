"""Labels of a graph as if nothing had to stay: which channels lie where, though the model gives
them out or an operator without a rule reads them.
"""

from torch import Tensor
from torch.fx import GraphModule

from fxprune.label.coupling import solve
from fxprune.label.groups import Analysis
from fxprune.label.propagation import Propagation
from fxprune.rules.recorder import Recorder


def analyze_unpinned(module: GraphModule, batch: int) -> Analysis:
    """Channel ids by which a graph may be looked through, and no more: nothing was tried, and what
    its groups say may be removed may have to stay.

    Args:
        module: the captured graph.
        batch: examples in the traced batch.
    """
    run = Propagation(module, lambda name: False)
    run.record = _Unpinned()
    run.run()
    return solve(module, run, batch).analysis


class _Unpinned(Recorder):
    """A notebook that notes no pins."""

    def pin(self, labels: Tensor, reason: str) -> None:
        """Nothing stays."""
