"""Slicing of residual streams as SliceGPT does it (Ashkboos et al. 2024): the stream in the
coordinates of its principal components, the same share of every stream's dropped, and nothing else;
the weights stay as they are.

One basis per stream where SliceGPT has one per block and a matrix between two of them.
"""

import numpy as np
from torch.fx import GraphModule

from fxprune.errors import BudgetError
from fxprune.label.keep import keep_first
from fxprune.passes import ReduceChannels
from fxprune.session import Session


def sliced(session: Session, flops: float) -> GraphModule:
    """The largest slice within a share of the FLOPs.

    Raises:
        BudgetError: no stream can be rotated, or the limit cannot be kept by these alone.
    """
    turned = session.with_streams
    if turned is None:
        raise BudgetError(f"no stream can be rotated: {dict(session.streams.reasons)}")
    groups, streams = turned.analysis.groups, turned.statistics.centered
    full = np.array([group.width for group in groups])
    own = np.array([group.name in streams for group in groups])
    for share in np.arange(1.0, 0.0, -1 / full[own].max()):
        widths = np.where(own, np.maximum(1, np.floor(share * full + 1e-9)), full).astype(int)
        if turned.costs.fractions(widths, ["flops"])["flops"] <= flops:
            keep_mask = keep_first(turned.analysis, widths)
            small: GraphModule = ReduceChannels(turned.analysis, keep_mask)(
                turned.graph
            ).graph_module
            return small
    raise BudgetError(f"streams alone cannot bring the FLOPs to {flops:g}")
