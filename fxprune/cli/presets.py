"""How the images of a timm or torchvision model become its inputs, as its library says."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fxprune.errors import SourceError


@dataclass(frozen=True)
class Preset:
    """What a library says about a model's images.

    Attributes:
        transform: a PIL image to a tensor (C, H, W).
        size, mean, std: of it, where one of them is to be changed.
    """

    transform: Callable[[Any], Tensor]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def preset_of(spec: str, net: nn.Module) -> Preset | None:
    """What the library of `timm:NAME` or `torchvision:NAME` says; None for other models.

    Raises:
        SourceError: the library fails at it.
    """
    library, _, name = spec.partition(":")
    find = {"timm": _of_timm, "torchvision": _of_torchvision}.get(library)
    if find is None or not name:
        return None
    try:
        return find(name, net)
    except Exception as error:
        raise SourceError(
            f"{spec}: {library} does not say how images become its inputs "
            f"({type(error).__name__}: {error}). Give --size, --mean and --std."
        ) from error


def _of_timm(name: str, net: nn.Module) -> Preset:
    """timm's own data configuration of the model."""
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    config = resolve_model_data_config(net)
    transform = create_transform(**config, is_training=False)
    return Preset(transform, config["input_size"][-1], tuple(config["mean"]), tuple(config["std"]))


def _of_torchvision(name: str, net: nn.Module) -> Preset | None:
    """The transforms of the model's default weights, if it has any that tell a mean."""
    from torchvision.models import get_model_weights

    weights = getattr(get_model_weights(name), "DEFAULT", None)
    transform = None if weights is None else weights.transforms()
    if transform is None or not hasattr(transform, "crop_size"):
        return None
    (size,) = transform.crop_size
    return Preset(transform, size, tuple(transform.mean), tuple(transform.std))
