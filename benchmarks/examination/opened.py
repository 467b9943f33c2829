"""A network captured and labeled once, for commands that look into the stations of compress."""

from collections.abc import Sequence

from torch import Tensor, nn

from fxprune.options import Options
from fxprune.plans.budget import Budget
from fxprune.plans.methods import METHODS
from fxprune.progress import Journal
from fxprune.session import Session, open_session


def opened(
    net: nn.Module, calibration: Tensor, seed: int, method: str = "auto", ignore: Sequence[str] = ()
) -> Session:
    """Capture and label once, as `compress(flops=)` does, for benchmarks that look into the
    stations.

    Args:
        net: to make smaller.
        calibration: examples (N, ...).
        seed: of the split into fitting and held-out examples.
        method: of the method table; `Session.using` turns to another.
        ignore: as for `compress`.
    """
    budget = Budget(flops=1.0)
    options = Options(
        budget=budget, method=METHODS[method], seed=seed, ignore=ignore, progress=False
    )
    return open_session(net, calibration, options, Journal(False))
