"""How images become the inputs of a model of timm, torchvision or transformers, as it says."""

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
    """What the library of `timm:NAME`, `torchvision:NAME` or `hf:PATH` says; None for other models.

    Raises:
        SourceError: the library fails at it.
    """
    library, _, name = spec.partition(":")
    find = LIBRARIES.get(library)
    if find is None or not name:
        return None
    try:
        return find(name, net)
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(
            f"{spec}: {library} does not say how images become its inputs ({type(error).__name__}: "
            f"{error}). Give --size, --mean and --std (to analyze: --shape)."
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


def _of_transformers(name: str, net: nn.Module) -> Preset:
    """The image processor that lies beside the checkpoint; no code of the checkpoint is run.

    Raises:
        SourceError: the model reads no images.
    """
    from transformers import AutoImageProcessor

    processors: Any = AutoImageProcessor
    read = getattr(net, "main_input_name", PIXELS)
    if read != PIXELS:
        raise SourceError(
            f"hf:{name} reads {read}, not images. Give --data package.module:loader_factory, whose "
            f"loader gives dicts with {read}, as its tokenizer or feature extractor makes them."
        )
    processor = processors.from_pretrained(name)

    def transform(image: Any) -> Tensor:
        pixels: Tensor = processor(images=image, return_tensors="pt")[PIXELS][0]
        return pixels

    size = getattr(processor, "crop_size", None) or processor.size
    side = size["height"] or size["shortest_edge"]
    if not processor.do_normalize:
        return Preset(transform, side, (0.0,) * 3, (1.0,) * 3)
    return Preset(transform, side, tuple(processor.image_mean), tuple(processor.image_std))


PIXELS = "pixel_values"
"""What models of transformers call their images."""
LIBRARIES = {"timm": _of_timm, "torchvision": _of_torchvision, "hf": _of_transformers}
"""Prefix -> what reads what its library says."""
