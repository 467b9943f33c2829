"""The caller's random state and modes come back as they were."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn

from fxprune.capture.precision import full_precision
from fxprune.capture.supported import check_model


@contextmanager
def undisturbed(model: nn.Module, seed: int) -> Iterator[None]:
    """The caller's random state and the model's modes come back as they were; the caller's autocast
    and gradient modes, reduced precision of float32, and a default device that is not the model's,
    do not reach what runs inside.
    """
    check_model(model)
    modes = [(m, m.training) for m in model.modules()]
    state, numpy_state = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng())
        stack.enter_context(_plain_arithmetic())
        stack.enter_context(full_precision())
        stack.enter_context(default_device(model))
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)
            for module, training in modes:
                module.training = training


@contextmanager
def _plain_arithmetic() -> Iterator[None]:
    """Without the caller's autocast, inference mode and disabled gradients: what is fitted is so
    in the model's own dtype, and sensitivities are gradients.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def default_device(model: nn.Module) -> Iterator[None]:
    """Where the default device is neither the CPU nor one of the model's (such as meta, which has
    no values), tensors are made on the CPU.
    """
    own = {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}
    if torch.get_default_device().type in own | {"cpu"}:
        yield
        return
    with torch.device("cpu"):
        yield
