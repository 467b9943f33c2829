"""The caller's random state and modes come back as they were."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from fxprune.capture.supported import check_model


@contextmanager
def undisturbed(model: nn.Module, seed: int) -> Iterator[None]:
    """The caller's random state and the model's modes come back as they were."""
    check_model(model)
    modes = [(m, m.training) for m in model.modules()]
    state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)
            for module, training in modes:
                module.training = training
