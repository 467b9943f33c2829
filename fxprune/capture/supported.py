"""Which models can be compressed: floating-point weights that have values."""

import keyword

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fxprune.errors import UnsupportedError

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})


def check_model(model: nn.Module) -> None:
    """Refuse what cannot be compressed: scripted modules, names that are keywords, and meta,
    quantized or integer weights.

    Raises:
        UnsupportedError: names the first offending parameter.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedError(f"The model is a {type(model).__name__}, not a torch.nn.Module.")
    _check_names(model)
    if not any(True for _ in model.parameters()):
        raise UnsupportedError("The model has no parameters: there is nothing to compress.")
    for name, tensor in model.named_parameters():
        if is_lazy(tensor):
            raise UnsupportedError(
                f"Parameter {name} has no size yet: its module is a lazy one, which learns it from "
                "the first batch. Call the model on a batch, and train it, first."
            )
        if tensor.is_meta:
            raise UnsupportedError(
                f"Parameter {name} is on the meta device and has no values. Load the weights first."
            )
        if tensor.is_quantized or type(tensor) not in (nn.Parameter, Tensor):
            raise UnsupportedError(
                f"Parameter {name} is quantized or a {type(tensor).__name__}. Compress the float "
                "model first, then quantize the result."
            )
        if tensor.dtype not in DTYPES:
            raise UnsupportedError(
                f"Parameter {name} has dtype {tensor.dtype}; fxprune takes "
                f"{', '.join(sorted(map(str, DTYPES)))}."
            )
    for name, module in model.named_modules():
        if "quantized" in type(module).__module__:
            raise UnsupportedError(
                f"Module {name} is a quantized {type(module).__name__}. Compress the float model "
                "first, then quantize the result."
            )


def find_device(name: object) -> torch.device:
    """A device by what a caller calls it, with its number; it is tried out.

    Raises:
        UnsupportedError: there is none such here, or nothing can be computed on it.
    """
    try:
        if not isinstance(name, (str, torch.device)):
            raise TypeError("a string or a torch.device names one")
        tried = torch.zeros(1, device=name)
        tried.cpu()
        return tried.device
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        shown = str(name) if isinstance(name, torch.device) else repr(name)
        first = (str(error).strip().splitlines() or [""])[0]
        raise UnsupportedError(
            f"device={shown} is no device that works here: {first}. Give one such as cuda or "
            "cuda:1, or leave it out to work where the model is."
        ) from error


def _check_names(model: nn.Module) -> None:
    """Refuse modules without a source to trace, and names that no source can hold."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedError(
                f"{name or 'The model'} is a scripted or traced {type(module).__name__}, whose "
                "source is compiled away. Pass the module that torch.jit.script or torch.jit.trace "
                "was given, and script the result."
            )
        odd = next((key for key in module._modules if keyword.iskeyword(key)), None)
        if odd is not None:
            raise UnsupportedError(
                f"{name or 'The model'} holds a module under the name {odd!r}, a keyword of "
                "Python, which the source of a traced model cannot name. Rename it, such as to "
                f"{odd + '_'!r}, and the state dict's keys alike."
            )
