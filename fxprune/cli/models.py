"""Models by name, for the command line: factories, timm, torchvision, transformers, saved ones."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import fxprune
from fxprune.cli.onnx_file import read_onnx
from fxprune.errors import SourceError

SAVED = "model.safetensors"
"""The compressed model in a folder that a command wrote."""


def named(spec: str) -> Any:
    """The object that `package.module:name` names; modules of the current folder are found too.

    Raises:
        SourceError: no such module or name, or importing it fails.
    """
    module, colon, path = spec.partition(":")
    if not colon or not module or not path:
        raise SourceError(
            f"{spec!r} is not of the form package.module:factory, such as "
            "torchvision.models:resnet18, nor a file that ends in .onnx."
        )
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        target: Any = importlib.import_module(module)
    except Exception as error:
        raise SourceError(
            f"Importing {module} for {spec!r} fails: {type(error).__name__}: {error}."
        ) from error
    for part in path.split("."):
        if not hasattr(target, part):
            raise SourceError(f"{spec!r}: {module} has no {path}.")
        target = getattr(target, part)
    return target


def called(spec: str) -> Any:
    """What the factory that `package.module:name` names gives; other objects as they are.

    Raises:
        SourceError: the factory fails.
    """
    factory = named(spec)
    if isinstance(factory, nn.Module) or not callable(factory):
        return factory
    try:
        return factory()
    except Exception as error:
        raise SourceError(
            f"{spec}() fails: {type(error).__name__}: {error}. A factory takes no argument."
        ) from error


def model(spec: str, weights: Path | None = None, *, trained: bool = True) -> nn.Module:
    """The model that a name stands for, with weights from a file.

    Args:
        spec: `package.module:factory`; `timm:NAME`, `torchvision:NAME` or `hf:PATH`, trained unless
            weights are named; the path of a file that ends in `.onnx`; or what `fxprune.save`
            wrote, as a file or in its folder.
        weights: .safetensors, or a state dict written by torch.save, read with weights_only=True.
        trained: whether the weights matter: those of a library are fetched only then.

    Raises:
        SourceError: says which part fails.
    """
    library, _, name = spec.partition(":")
    if Path(spec).suffix.lower() == ".onnx":
        if weights is not None:
            raise SourceError(f"{spec} brings its own weights. Leave out --weights {weights}.")
        return read_onnx(Path(spec))
    if library in LIBRARIES and name:
        made = _from_library(library, name, trained and weights is None)
    elif _is_saved(Path(spec)):
        made = load_saved(Path(spec))
    else:
        made = called(spec)
    if not isinstance(made, nn.Module):
        raise SourceError(f"{spec} gives a {type(made).__name__}, not a torch.nn.Module.")
    if weights is not None:
        try:
            made.load_state_dict(state_dict(weights))
        except RuntimeError as error:
            problems = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
            raise SourceError(
                f"{weights} does not fit {type(made).__name__}: {problems}"
            ) from error
    return made.eval()


def load_saved(path: Path) -> nn.Module:
    """What `fxprune.save` wrote, from the file or the folder that a command wrote.

    Raises:
        StorageError: it is no such file.
    """
    return fxprune.load(path / SAVED if path.is_dir() else path)


def _is_saved(path: Path) -> bool:
    return (path / SAVED).is_file() if path.is_dir() else path.suffix == ".safetensors"


def _from_timm(name: str, trained: bool) -> Any:
    import timm

    return timm.create_model(name, pretrained=trained)


def _from_torchvision(name: str, trained: bool) -> Any:
    from torchvision.models import get_model

    return get_model(name, weights="DEFAULT" if trained else None)


def _from_transformers(path: str, trained: bool) -> Any:
    """The class that the checkpoint's configuration names; no code of the checkpoint is run."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(path)
    architecture = (config.architectures or ["AutoModel"])[0]
    kind = getattr(transformers, architecture, None)
    if kind is None:
        raise SourceError(
            f"hf:{path} is a {architecture}, which transformers {transformers.__version__} does "
            "not hold. Name a factory of your own, as package.module:factory."
        )
    if trained:
        return kind.from_pretrained(path)
    return kind(config) if architecture != "AutoModel" else kind.from_config(config)


LIBRARIES: dict[str, tuple[Callable[[str, bool], Any], str]] = {
    "timm": (_from_timm, 'pip install "fxprune[timm]"'),
    "torchvision": (_from_torchvision, 'pip install "fxprune[vision]"'),
    "hf": (_from_transformers, "pip install transformers"),
}
"""Prefix -> how its models are made, and what installs the library."""


def _from_library(library: str, name: str, trained: bool) -> Any:
    make, install = LIBRARIES[library]
    try:
        return make(name, trained)
    except SourceError:
        raise
    except ImportError as error:
        raise SourceError(f"{library}:{name} cannot be made: {error}. {install}.") from error
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        offline = " Where nothing can be fetched, give --weights FILE." if trained else ""
        raise SourceError(
            f"{library}:{name} cannot be made: {type(error).__name__}: {first}.{offline}"
        ) from error


def state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name from .safetensors or a weights-only state dict; no code in the file is run.

    Raises:
        SourceError: no such file, or it holds something else.
    """
    if not path.is_file():
        raise SourceError(f"There is no weights file {path}.")
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # a damaged archive raises whatever its readers stumble over
        first = (str(error).strip().splitlines() or [""])[0]
        raise SourceError(
            f"{path} is neither safetensors nor a weights-only state dict: "
            f"{type(error).__name__}: {first}"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise SourceError(f"{path} holds no state dict (tensors by name).")
    return state
