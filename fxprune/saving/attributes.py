"""Sizes that modules hold as attributes."""

from collections.abc import Mapping

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from fxprune.errors import StorageError

SIZED = (
    nn.Linear,
    _ConvNd,
    _NormBase,
    *(nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.EmbeddingBag, nn.PReLU),
    nn.RNNBase,
)
"""Layers whose sizes follow from their tensors."""
ATTRIBUTES = "attributes"
"""The setting of a plan that holds other modules' sizes."""


def set_sizes(module: nn.Module, sizes: Mapping[str, Mapping[str, int]]) -> None:
    """Set whole numbers of modules.

    Args:
        module: that holds them.
        sizes: by the path of the module and the name of the attribute.

    Raises:
        StorageError: there is no such number.
    """
    for path, own in sizes.items():
        try:
            owner = module.get_submodule(path)
        except AttributeError as error:
            raise StorageError(f"The module has no {path}, whose sizes are to be set.") from error
        for name, value in own.items():
            if type(value) is not int or type(vars(owner).get(name)) is not int:
                raise StorageError(f"{path}.{name} is no whole number that could be set.")
            setattr(owner, name, value)
