"""A network captured and labeled once, for commands that look into the stations of compress."""

from torch import Tensor, nn

from fxprune.plans.budget import Budget
from fxprune.session import Session, held_out_for, open_session


def opened(net: nn.Module, calibration: Tensor, seed: int) -> Session:
    """Capture and label once, as `compress(flops=)` does, for benchmarks that look into the
    stations.
    """
    return open_session(
        net,
        calibration,
        example=None,
        ignore=(),
        keep=None,
        round_to=1,
        seed=seed,
        memory=2e9,
        progress=False,
        decision=None,
        held_out=held_out_for(Budget(flops=1.0)),
    )
